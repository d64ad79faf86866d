//! The README says what the program does: every setting, every command and every flag it names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use videothinker::config::{BiasPlacement, Config, ConfigError, OptimizerMemory, Verb};
use videothinker::model::spec::Spec;
use videothinker::train::estimate::{MemoryEstimate, StepShape};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A field or variant of the config's source and its doc comment on one line.
struct Item {
    name: String,
    /// The type of a field; empty for a variant.
    kind: String,
    doc: String,
}

/// Fields or variants by the name of their struct or enum.
type Types = BTreeMap<String, Vec<Item>>;

/// Structs and enums of the config's source with their fields or variants.
fn parse_config_source(source: &str) -> Types {
    let mut types = BTreeMap::new();
    let mut current: Option<(String, Vec<Item>)> = None;
    let mut doc = String::new();
    for line in source.lines() {
        let header = line
            .strip_prefix("pub struct ")
            .or_else(|| line.strip_prefix("pub enum "));
        if let Some(rest) = header {
            current = Some((rest.trim_end_matches(" {").to_owned(), Vec::new()));
            doc.clear();
        } else if line == "}" {
            current = current.and_then(|(name, items)| {
                types.insert(name, items);
                None
            });
        } else if let Some(text) = line.trim_start().strip_prefix("/// ") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(text);
        } else if let Some((_, items)) = &mut current
            && let Some(body) = line.trim().strip_suffix(',')
            && !body.contains('(')
        {
            let (name, kind) = body
                .strip_prefix("pub ")
                .and_then(|field| field.split_once(": "))
                .unwrap_or((body, ""));
            items.push(Item {
                name: name.to_owned(),
                kind: kind.to_owned(),
                doc: std::mem::take(&mut doc),
            });
        }
    }
    types
}

/// `FooBar` as serde writes it: `lowercase` for one word, `snake_case` for several.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_uppercase() && index > 0 {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    text
}

fn config_source() -> String {
    read("src/config.rs") + &read("src/config/eval.rs") + &read("src/config/video.rs")
}

/// The configuration table as it should stand in the README.
fn config_table() -> String {
    let types = parse_config_source(&config_source());
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut text = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
    for item in &types["Config"] {
        match types.get(&item.kind) {
            None => push_row(
                &mut text,
                &item.name,
                defaults.get(&item.name),
                item,
                &types,
            ),
            Some(fields) => {
                for field in fields {
                    let default = defaults[&item.name].get(&field.name);
                    push_row(
                        &mut text,
                        &format!("{}.{}", item.name, field.name),
                        default,
                        field,
                        &types,
                    );
                }
            }
        }
    }
    text
}

fn push_row(
    text: &mut String,
    key: &str,
    default: Option<&toml::Value>,
    item: &Item,
    types: &Types,
) {
    let default = default.map_or_else(|| "–".to_owned(), |value| format!("`{value}`"));
    let inner = item
        .kind
        .trim_start_matches("Option<")
        .trim_start_matches("Vec<");
    let mut meaning = item.doc.clone();
    if let Some(variants) = types.get(inner.trim_end_matches('>')) {
        for (index, variant) in variants.iter().enumerate() {
            meaning.push_str(if index == 0 { "<br>" } else { " · " });
            let doc = variant.doc.trim_end_matches('.');
            meaning += &format!("`{}`: {doc}", snake_case(&variant.name));
        }
    }
    *text += &format!(
        "| `{key}` | {default} | {} |\n",
        meaning.replace('|', "\\|")
    );
}

#[test]
fn the_configuration_table_is_that_of_the_source() {
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
fn every_setting_is_in_the_table() {
    let table = config_table();
    let rows = table.lines().skip(2);
    let mut named: Vec<&str> = rows
        .filter_map(|row| row.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key)
        .collect();
    named.sort_unstable();
    assert!(named.len() > 70, "{named:?}");
    assert_eq!(named, Config::keys());
}

/// Another value than the default, of the kind that a field's type says.
fn other_value(kind: &str, default: Option<&toml::Value>, types: &Types) -> toml::Value {
    let inner = kind.strip_prefix("Option<").or(kind.strip_prefix("Vec<"));
    let inner = inner.map_or(kind, |inner| inner.trim_end_matches('>'));
    let value = match (inner, default) {
        ("bool", default) => (!default.unwrap().as_bool().unwrap()).into(),
        ("usize" | "u64", default) => {
            let default = default.and_then(toml::Value::as_integer);
            (2 * default.unwrap_or(1).max(1)).into()
        }
        ("f64", default) => {
            let default = default.and_then(toml::Value::as_float).unwrap_or(0.0);
            (if default == 0.0 { 0.5 } else { default / 2.0 }).into()
        }
        ("String" | "PathBuf", _) => "elsewhere".into(),
        (name, default) => {
            let words = types[name].iter().map(|item| snake_case(&item.name));
            let default = default.and_then(toml::Value::as_str);
            let mut words = words.filter(|word| Some(word.as_str()) != default);
            words.next().unwrap().into()
        }
    };
    if kind.starts_with("Vec<") {
        vec![value].into()
    } else {
        value
    }
}

#[test]
fn every_setting_can_be_set_in_a_file_and_on_the_command_line() {
    let types = parse_config_source(&config_source());
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let mut taken = 0;
    for key in Config::keys() {
        let (section, name) = key.split_once('.').unwrap_or(("", &key));
        let fields = if defaults.contains_key(section) {
            let of = types["Config"].iter().find(|item| item.name == section);
            &types[&of.unwrap().kind]
        } else {
            &types["Config"]
        };
        let field = fields.iter().find(|item| item.name == name).unwrap();
        let default = match section {
            "" => defaults.get(name),
            section => defaults[section].get(name),
        };
        let value = other_value(&field.kind, default, &types);
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
                    assert_eq!(config.flattened()[&key], value.to_string(), "{key}");
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
