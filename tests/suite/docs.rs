//! What is generated in the documents is what the program says, and every command line in them is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::LazyLock;
use videothinker::config::{
    BiasPlacement, Config, ConfigError, OptimizerMemory, Setting, ValueType, Verb,
};
use videothinker::model::spec::Spec;
use videothinker::train::estimate::{MemoryEstimate, StepShape};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A section for each table of the configuration, as it should stand in the book.
fn config_sections() -> String {
    let mut text = String::new();
    let mut open = None;
    for setting in Config::settings() {
        let table = setting.key.split_once('.').map(|(table, _)| table);
        if open != Some(table) {
            let title =
                table.map_or_else(|| "Of the run".to_owned(), |table| format!("`[{table}]`"));
            text += &format!("\n## {title}\n\n| key | default | meaning |\n| --- | --- | --- |\n");
            open = Some(table);
        }
        let default = setting.default_in_toml();
        let default = default.map_or_else(|| "–".to_owned(), |value| format!("`{value}`"));
        let mut meaning = setting.doc.clone();
        for choice in setting.choices() {
            let doc = choice.doc.trim_end_matches('.');
            meaning += &format!("<br>• `{}`: {doc}", choice.word);
        }
        if setting.choices().is_empty() {
            meaning += &format!("<br>*{}*", setting.value_in_brief());
        }
        text += &format!(
            "| `{}` | {default} | {} |\n",
            setting.key,
            meaning.replace('|', "\\|")
        );
    }
    text + "\n"
}

#[test]
fn the_configuration_page_is_that_of_the_program() {
    check_part("docs/configuration.md", "config", &config_sections());
}

/// Compares what stands between the marks `name` of a file with `wanted`, or puts it there.
fn check_part(file: &str, name: &str, wanted: &str) {
    let text = read(file);
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&open).unwrap();
    let (part, after) = rest.split_once(&close).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        // Other tests read the file at the same time.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let temporary = folder.join(format!("{file}.tmp"));
        std::fs::write(&temporary, format!("{before}{open}{wanted}{close}{after}")).unwrap();
        std::fs::rename(temporary, folder.join(file)).unwrap();
        return;
    }
    assert_eq!(
        part, wanted,
        "{file}: run UPDATE_DOCS=1 scripts/test.sh --test suite docs"
    );
}

#[test]
fn the_schema_for_editors_is_that_of_the_program() {
    let output = assert_cmd::Command::cargo_bin("videothinker")
        .unwrap()
        .args(["inspect", "config", "--schema"])
        .output()
        .unwrap();
    let schema = String::from_utf8(output.stdout).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/schema.json");
        std::fs::write(file, &schema).unwrap();
    }
    assert!(
        schema == read("configs/schema.json"),
        "run UPDATE_DOCS=1 scripts/test.sh --test suite docs"
    );
}

/// Another value than the default, of the setting's kind.
fn other_value(setting: &Setting) -> toml::Value {
    let default = setting.default.as_ref();
    if let Some(example) = setting.examples.first()
        && Some(example) != default
    {
        return toml::Value::try_from(example).unwrap();
    }
    match setting.value_type {
        ValueType::Boolean => (!default.unwrap().as_bool().unwrap()).into(),
        ValueType::Integer => (2 * default.unwrap().as_i64().unwrap().max(1)).into(),
        ValueType::Number => match default.unwrap().as_f64().unwrap() {
            0.0 => 0.5.into(),
            default => (default / 2.0).into(),
        },
        ValueType::String if setting.choices().is_empty() => "elsewhere".into(),
        ValueType::String => {
            let mut words = setting.choices().iter().map(|choice| &choice.word);
            let default = default.and_then(serde_json::Value::as_str);
            let other = words.find(|word| Some(word.as_str()) != default);
            other.unwrap().clone().into()
        }
        ValueType::Array => panic!("{}: a list has an example", setting.key),
    }
}

#[test]
fn every_setting_can_be_set_in_a_file_and_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let mut taken = 0;
    for setting in Config::settings() {
        let key = &setting.key;
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let value = other_value(setting);
        let table = if section.is_empty() {
            String::new()
        } else {
            format!("[{section}]\n")
        };
        std::fs::write(&file, format!("{table}{name} = {value}\n")).unwrap();
        for loaded in [
            Config::load(Some(&file), &[], Verb::Inspect),
            Config::load(None, &[format!("{key}={value}")], Verb::Inspect),
        ] {
            match loaded {
                Ok(config) => {
                    assert_eq!(config.flattened()[key], value.to_string(), "{key}");
                    taken += 1;
                }
                // It was understood, and does not go with the rest, or names what is not there.
                Err(ConfigError::Invalid { .. }) => {}
                Err(error) => panic!("{key} = {value}: {error}"),
            }
        }
    }
    assert!(taken > 120, "{taken}");
}

/// Qwen2.5-VL-3B's sizes.
fn three_b() -> Spec {
    let spec = serde_json::json!({
        "text": {
            "hidden_size": 2048, "num_layers": 36, "num_heads": 16, "num_kv_heads": 2,
            "intermediate_size": 11008, "vocab_size": 151_936, "rope_theta": 1e6,
            "rms_norm_eps": 1e-6, "mrope_section": [16, 24, 24]
        },
        "vision": {
            "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420,
            "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 2048, "tokens_per_second": 2.0
        },
        "tokens": {
            "vision_start": 151_652, "vision_end": 151_653, "image_pad": 151_655,
            "video_pad": 151_656, "eos": [151_645], "pad": 151_643
        },
        "tie_word_embeddings": true
    });
    serde_json::from_value(spec).unwrap()
}

/// CDPO of the 3B at the paper's longest lengths on a GPU.
fn memory_of(memory: OptimizerMemory, placement: BiasPlacement) -> MemoryEstimate {
    /// Tokens of a question and the words around it.
    const TEXT: usize = 200;
    let mut config = Config::default();
    config.model.device = "cuda:0".into();
    config.model.bias_placement = placement;
    config.optimizer.memory = memory;
    let shape = StepShape::largest(&config, Verb::TrainCdpo, 1, TEXT, 0);
    let spec = three_b();
    MemoryEstimate::estimate(&spec, Some(&spec), &config, &shape, 0)
}

const MEMORIES: [(OptimizerMemory, &str); 3] = [
    (OptimizerMemory::Full, "full"),
    (OptimizerMemory::Compact, "compact"),
    (OptimizerMemory::Host, "host"),
];
const PLACEMENTS: [(BiasPlacement, &str); 3] = [
    (BiasPlacement::Device, "device"),
    (BiasPlacement::Int8, "int8"),
    (BiasPlacement::Host, "host"),
];

/// The memory table as it should stand in the book.
fn memory_table() -> String {
    let mut text = String::from(
        "| `optimizer.memory` | `model.bias_placement` | weights | optimizer | bias model | gradients | activations | logits | \
         CUDA | **device** | host |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (memory, name) in MEMORIES {
        for (placement, place) in PLACEMENTS {
            let bytes = memory_of(memory, placement);
            let cells = [
                bytes.weights,
                bytes.optimizer,
                bytes.bias_model,
                bytes.gradients,
                bytes.activations,
                bytes.logits,
                bytes.cuda,
            ];
            let gb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e9);
            let cells = cells.map(gb).join(" | ");
            text += &format!(
                "| `{name}` | `{place}` | {cells} | **{}** | {} |\n",
                gb(bytes.peak),
                gb(bytes.host)
            );
        }
    }
    text
}

#[test]
fn the_memory_table_is_what_is_estimated() {
    check_part("docs/memory.md", "memory", &memory_table());
}

#[test]
fn the_3b_fits_on_the_cards_that_the_book_names() {
    // What nvidia-smi reports of them: 49,140 and 24,564 MiB.
    let (card_48, card_24) = (49_140 << 20, 24_564 << 20);
    let peak = |memory, placement| memory_of(memory, placement).peak;
    assert!(peak(OptimizerMemory::Compact, BiasPlacement::Device) < card_48);
    assert!(peak(OptimizerMemory::Full, BiasPlacement::Host) > card_48);
    assert!(peak(OptimizerMemory::Host, BiasPlacement::Device) < card_24);
    assert!(peak(OptimizerMemory::Host, BiasPlacement::Host) < card_24);
    let bytes = memory_of(OptimizerMemory::Host, BiasPlacement::Host);
    let sampling = bytes.cache + bytes.prefill;
    assert!(
        sampling < bytes.learning,
        "the table leaves sampling out: {sampling}"
    );
    assert_eq!(
        bytes.learning,
        bytes.gradients + bytes.activations + bytes.logits
    );
}

/// What `--help` prints behind these words, as wide as it is without a terminal: 100 columns.
fn help(words: &[&str]) -> String {
    let mut command = crate::program();
    command.args(words).arg("--help").env_remove("COLUMNS");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "videothinker {} --help fails",
        words.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help text lists.
fn listed(help: &str) -> impl Iterator<Item = &str> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A command stands two spaces in; further in, its description goes on.
    let entries = lines.filter_map(|line| line.strip_prefix("  "));
    let names = entries.filter(|entry| !entry.starts_with(' '));
    names
        .filter_map(|entry| entry.split_whitespace().next())
        .filter(|name| *name != "help")
}

/// Every command by its words (the program itself by none) with its help, in the order in which they are listed.
fn commands() -> &'static [(String, String)] {
    fn collect(words: &[&str], found: &mut Vec<(String, String)>) {
        let text = help(words);
        found.push((words.join(" "), text.clone()));
        for name in listed(&text) {
            collect(&[words, &[name][..]].concat(), found);
        }
    }
    static COMMANDS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let mut found = Vec::new();
        collect(&[], &mut found);
        found
    });
    &COMMANDS
}

/// The reference as it should stand in the book: a list of all commands, then what each says of itself.
fn commands_reference() -> String {
    let mut list = String::from("| command | |\n| --- | --- |\n");
    let mut sections = String::new();
    for (words, help) in &commands()[1..] {
        let about: Vec<&str> = help.lines().take_while(|line| !line.is_empty()).collect();
        let anchor = words.replace(' ', "-");
        list += &format!(
            "| [`{words}`](#videothinker-{anchor}) | {} |\n",
            about.join(" ").replace('|', "\\|")
        );
        let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
        sections += &format!(
            "\n### `videothinker {words}`\n\n```text\n{}\n```\n",
            lines.join("\n")
        );
    }
    format!("\n{list}{sections}\n")
}

#[test]
fn the_commands_page_is_that_of_the_program() {
    assert!(commands().len() > 20, "{}", commands().len());
    check_part("docs/commands.md", "commands", &commands_reference());
}

/// The command lines of a text with their line numbers: lines of its blocks that call the program, continued ones joined,
/// and what its backquotes hold.
fn command_lines(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let mut whole = line.trim().to_owned();
        while let Some(begun) = whole.strip_suffix('\\') {
            whole = format!("{begun} {}", lines.next().unwrap_or_default().1.trim());
        }
        // Another program may start it: `CUDA_VISIBLE_DEVICES=0 videothinker …`, `torchrun … videothinker …`.
        let is_call = ["videothinker ", "CUDA_", "torchrun "]
            .iter()
            .any(|start| whole.starts_with(start));
        let pieces = whole.split('`').skip(1).step_by(2);
        let quoted = pieces.filter(|piece| piece.starts_with("videothinker "));
        let calls = is_call.then_some(whole.as_str()).into_iter().chain(quoted);
        for call in calls {
            if let Some((_, arguments)) = call.split_once("videothinker ") {
                let arguments = arguments.split(" #").next().unwrap_or_default();
                found.push((index + 1, arguments.trim().to_owned()));
            }
        }
    }
    found
}

/// What is wrong with a command line: its command or a flag of it does not exist.
fn wrong(line: &str, known: &BTreeMap<&str, &str>) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut depth = 0;
    while depth < words.len() && known.contains_key(words[..=depth].join(" ").as_str()) {
        depth += 1;
    }
    let command = words[..depth].join(" ");
    let help = known[command.as_str()];
    let next = words.get(depth).copied().unwrap_or_default();
    let is_name = !next.is_empty() && next.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    if is_name && !next.starts_with('-') && help.contains("\nCommands:\n") {
        return Some(format!("`videothinker {command}` has no `{next}`"));
    }
    let mut flags = words[depth..]
        .iter()
        .map(|word| word.split('=').next().unwrap_or_default())
        .filter(|word| word.starts_with("--") && *word != "--help");
    let is_known = |flag: &str| {
        help.split(|c: char| c.is_whitespace() || ",[]<>=".contains(c))
            .any(|word| word == flag)
    };
    let unknown = flags.find(|flag| !is_known(flag))?;
    Some(format!("`videothinker {command}` has no {unknown}"))
}

#[test]
fn every_command_line_of_the_documents_exists() {
    let commands = commands().iter();
    let known: BTreeMap<&str, &str> = commands.map(|(words, help)| (&**words, &**help)).collect();
    let mut problems = Vec::new();
    let mut found = 0;
    for (document, text) in crate::links::guides() {
        for (number, line) in command_lines(&text) {
            found += 1;
            let problem = wrong(&line, &known);
            problems
                .extend(problem.map(|problem| format!("{document}:{number}: {problem}: {line}")));
        }
    }
    assert!(found > 100, "{found}");
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn wrong_command_lines_are_seen() {
    let known = BTreeMap::from([
        ("", "Usage\n\nCommands:\n  eval\n"),
        ("eval", "Usage\n\nCommands:\n  run\n"),
        ("eval run", "Options:\n  --model <DIR>\n  -h, --help\n"),
    ]);
    let said = |line: &str| wrong(line, &known).unwrap_or_default();
    assert_eq!(said("eval run --model DIR"), "");
    assert_eq!(said("eval run --model=DIR --help"), "");
    assert_eq!(said("COMMAND --help"), "");
    assert_eq!(said("evaluate"), "`videothinker ` has no `evaluate`");
    assert_eq!(said("eval walk DIR"), "`videothinker eval` has no `walk`");
    assert_eq!(
        said("eval run --modle DIR"),
        "`videothinker eval run` has no --modle"
    );
    let text = "see `videothinker eval run`:\n```\nvideothinker eval \\\n  run # now\n```\n";
    let lines = [(1, "eval run".to_owned()), (3, "eval  run".to_owned())];
    assert_eq!(command_lines(text), lines);
}

#[test]
fn every_config_file_loads() {
    let mut found = 0;
    for folder in [
        "configs/mini",
        "configs/clevrer",
        "configs/sweep",
        "configs/eval",
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let loaded = Config::load(Some(&path), &[], videothinker::config::Verb::Inspect);
            assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("# "),
                "{}: a first line says what it is for",
                path.display()
            );
            let comments = text.lines().take_while(|line| line.starts_with('#'));
            assert_eq!(
                comments.last(),
                Some("#:schema ../schema.json"),
                "{}: editors find the schema",
                path.display()
            );
            found += 1;
        }
    }
    assert!(found >= 11, "{found}");
}

#[test]
fn every_stage_one_keeps_the_checkpoint_that_stage_two_is_told_to_name() {
    for name in ["bias", "bias_full_question", "bias_script"] {
        let file = format!("configs/clevrer/{name}.toml");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
        let config = Config::load(Some(&path), &[], Verb::Inspect).unwrap();
        let step = config.train.last_step();
        assert_eq!(config.checkpoint.keep_steps, [step], "{file}");
        assert_eq!(config.output_dir, Path::new("runs/clevrer").join(name));
        let checkpoint = format!("runs/clevrer/{name}/checkpoints/step-{step:06}");
        let named = if name == "bias" {
            read("configs/clevrer/cdpo.toml")
        } else {
            read(&file)
        };
        assert!(named.contains(&checkpoint), "{checkpoint} is named nowhere");
    }
}

#[test]
fn stage_two_names_the_last_checkpoint_of_stage_one() {
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("configs")
            .join(name);
        Config::load(Some(&path), &[], videothinker::config::Verb::Inspect).unwrap()
    };
    for folder in ["mini", "clevrer"] {
        let bias = load(&format!("{folder}/bias.toml"));
        let last = bias.train.last_step();
        let checkpoint = format!("{}/checkpoints/step-{last:06}", bias.output_dir.display());
        assert_eq!(bias.checkpoint.keep_steps, [last], "{folder}/bias.toml");
        for stage in ["cdpo", "attract"] {
            let config = load(&format!("{folder}/{stage}.toml"));
            assert_eq!(
                config.model.bias_model.as_ref(),
                Some(&checkpoint),
                "{folder}/{stage}.toml"
            );
        }
    }
}

#[test]
fn every_script_says_what_it_does_and_does_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut scripts = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")).unwrap() {
        let script = entry.unwrap().path();
        if script.extension().is_none_or(|ending| ending != "sh") {
            continue;
        }
        scripts += 1;
        let output = Command::new("bash")
            .arg(&script)
            .arg("--help")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", script.display());
        assert!(said.lines().count() > 2, "{}: {said}", script.display());
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }
    assert!(scripts > 10, "{scripts}");
}
