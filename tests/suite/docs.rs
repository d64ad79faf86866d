//! The README says what the program does: every setting, every command and every flag it names.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use videothinker::config::{
    BiasPlacement, Config, ConfigError, OptimizerMemory, Setting, ValueType, Verb,
};
use videothinker::model::spec::Spec;
use videothinker::train::estimate::{MemoryEstimate, StepShape};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The configuration table as it should stand in the README.
fn config_table() -> String {
    let mut text =
        String::from("| key | values | default | meaning |\n| --- | --- | --- | --- |\n");
    for setting in Config::settings() {
        let default = setting.default_in_toml();
        let default = default.map_or_else(|| "–".to_owned(), |value| format!("`{value}`"));
        let mut meaning = setting.doc.clone();
        for (index, choice) in setting.choices().iter().enumerate() {
            meaning.push_str(if index == 0 { "<br>" } else { " · " });
            let doc = choice.doc.trim_end_matches('.');
            meaning += &format!("`{}`: {doc}", choice.word);
        }
        text += &format!(
            "| `{}` | {} | {default} | {} |\n",
            setting.key,
            setting.value_in_brief(),
            meaning.replace('|', "\\|")
        );
    }
    text
}

#[test]
fn the_configuration_table_is_that_of_the_program() {
    check_table("config", &config_table());
}

/// Compares what stands between the README's marks `name` with `wanted`, or puts it there.
fn check_table(name: &str, wanted: &str) {
    // Tests that write the file take turns.
    static WRITING: Mutex<()> = Mutex::new(());
    let _turn = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let readme = read("README.md");
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = readme.split_once(&open).unwrap();
    let (table, after) = rest.split_once(&close).unwrap();
    if std::env::var_os("UPDATE_README").is_some() {
        // The other tests read the file at the same time.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let temporary = folder.join("README.md.tmp");
        std::fs::write(&temporary, format!("{before}{open}{wanted}{close}{after}")).unwrap();
        std::fs::rename(temporary, folder.join("README.md")).unwrap();
        return;
    }
    assert_eq!(
        table, wanted,
        "run UPDATE_README=1 scripts/test.sh --test suite docs"
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
    if std::env::var_os("UPDATE_README").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/schema.json");
        std::fs::write(file, &schema).unwrap();
    }
    assert!(
        schema == read("configs/schema.json"),
        "run UPDATE_README=1 scripts/test.sh --test suite docs"
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

/// The memory table as it should stand in the README.
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
    check_table("memory", &memory_table());
}

#[test]
fn the_3b_fits_on_the_cards_that_the_readme_names() {
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

fn help(words: &[&str]) -> String {
    let output = crate::program().args(words).arg("--help").output().unwrap();
    assert!(
        output.status.success(),
        "videothinker {} --help fails",
        words.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The command lines in the code blocks of a file: lines that call the program, continued lines joined.
fn command_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined
        .lines()
        .filter_map(|line| line.trim().strip_prefix("videothinker "))
        .map(|line| {
            line.split(" #")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .collect()
}

/// Checks that a command and all its flags exist.
fn check_command(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let nested = ["data", "eval", "inspect"].contains(&words[0]);
    let verb = &words[..if nested { 2 } else { 1 }];
    let help = help(verb);
    for flag in words
        .iter()
        .filter(|word| word.starts_with("--") && **word != "--help")
    {
        let known = help
            .split(|c: char| c.is_whitespace() || ",[]<>=".contains(c))
            .any(|word| word == *flag);
        assert!(known, "`videothinker {}` has no {flag}", verb.join(" "));
    }
}

#[test]
fn every_command_of_the_readme_exists() {
    let mut lines = command_lines(&read("README.md"));
    assert!(lines.len() > 10, "{lines:?}");
    lines.extend(command_lines(&read("data/README.md")));
    for line in lines {
        check_command(&line);
    }
}

#[test]
fn every_command_of_the_program_is_in_the_readme() {
    let lines = command_lines(&read("README.md"));
    let listed = |verb: &str| lines.iter().any(|line| line.starts_with(verb));
    for (parent, prefix) in [
        (&[][..], ""),
        (&["data"][..], "data "),
        (&["eval"][..], "eval "),
        (&["inspect"][..], "inspect "),
    ] {
        let text = help(parent);
        let commands = text.split("Commands:\n").nth(1).unwrap();
        for line in commands.lines().take_while(|line| !line.is_empty()) {
            // A command stands two spaces in; further in, its description goes on.
            let Some(verb) = line
                .strip_prefix("  ")
                .filter(|rest| !rest.starts_with(' '))
            else {
                continue;
            };
            let verb = verb.split_whitespace().next().unwrap();
            if verb != "help" {
                assert!(
                    listed(&format!("{prefix}{verb}")),
                    "the README does not show `{prefix}{verb}`"
                );
            }
        }
    }
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
