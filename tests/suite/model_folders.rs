//! Folders that are no whole model, or a damaged one: every verb says so before it works, and how to mend it.

use crate::run::Run;
use crate::run::assert_code;
use crate::run::assert_says;
use crate::run::world;
use crate::videothinker;
use candle_core::DType;
use candle_core::Device;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use videothinker::model::export;
use videothinker::model::spec::Spec;
use videothinker::model::weights;

/// A copy of the miniature, in f32.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mini");
        let target = folder.path().join("model");
        std::fs::create_dir(&target).unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
        }
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("model").join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.file(name), content).unwrap();
    }

    /// The last weight becomes NaN.
    fn spoil(&self) {
        let mut bytes = std::fs::read(self.file("model.safetensors")).unwrap();
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&f32::NAN.to_le_bytes());
        self.write("model.safetensors", &bytes);
    }

    fn run(&self, args: &[&str]) -> Output {
        videothinker(self.folder.path(), args)
    }

    fn inspect(&self, more: &[&str]) -> Output {
        self.run(&[&["inspect", "model", "model"], more].concat())
    }

    fn ask(&self) -> Output {
        let clip = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/video/clips/gops.mp4"
        );
        let asked = [
            "ask",
            "--model",
            "model",
            "--video",
            clip,
            "--question",
            "What happens?",
        ];
        self.run(&[&asked[..], &["--set", "sampling.max_new_tokens=2"]].concat())
    }

    fn training(&self, key: &str, more: &[&str]) -> Output {
        let mut run = Run::new("train-cdpo");
        run.set(
            "model.bias_model",
            &world().join("untrained").display().to_string(),
        );
        run.set(key, &self.folder.path().join("model").display().to_string());
        run.command().arg("--dry-run").args(more).output().unwrap()
    }

    fn evaluation(&self) -> Output {
        let path = |name: &str| world().join(name).display().to_string();
        let questions = format!("data.questions={}", path("world/train_questions.json"));
        let clips = format!("data.video_root={}", path("world/videos"));
        let args = ["eval", "run", "--dry-run", "--model", "model"];
        self.run(&[&args[..], &["--set", &questions, "--set", &clips]].concat())
    }
}

#[test]
fn weights_that_were_not_fetched_are_named_by_every_verb_before_it_works() {
    let model = Model::new();
    assert_code(&model.inspect(&[]), 0);
    assert_code(&model.training("model.path", &["--deep"]), 0);
    assert_code(&model.evaluation(), 0);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5435000\n";
    model.write("model.safetensors", pointer);
    let words = [
        "model.safetensors",
        "is a Git LFS pointer, not the weights",
        "git lfs pull",
    ];
    assert_says(&model.inspect(&[]), 1, &words);
    assert_says(
        &model.training("model.path", &[]),
        1,
        &[&words[..], &["model.path"]].concat(),
    );
    assert_says(
        &model.training("model.bias_model", &[]),
        1,
        &[&words[..], &["model.bias_model"]].concat(),
    );
    assert_says(&model.evaluation(), 1, &words);
    assert_says(&model.ask(), 1, &words);
}

#[test]
fn an_adapter_is_to_be_merged_with_its_model() {
    let model = Model::new();
    let adapter =
        br#"{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}"#;
    model.write("adapter_config.json", adapter);
    std::fs::rename(
        model.file("model.safetensors"),
        model.file("adapter_model.safetensors"),
    )
    .unwrap();
    let words = [
        "LoRA adapter of Qwen/Qwen2.5-VL-3B-Instruct",
        "merge_and_unload",
    ];
    assert_says(&model.inspect(&[]), 1, &words);
    assert_says(&model.training("model.path", &[]), 1, &words);
    std::fs::remove_file(model.file("config.json")).unwrap();
    assert_says(&model.inspect(&[]), 2, &words);
    assert_says(&model.training("model.path", &[]), 2, &words);
}

#[test]
fn a_weight_that_is_no_number_is_neither_asked_nor_exported() {
    let model = Model::new();
    model.spoil();
    // Headers alone do not show it.
    assert_code(&model.inspect(&[]), 0);
    assert_code(&model.training("model.path", &[]), 0);
    let words = ["has 1 of", "not finite", "visual."];
    assert_says(&model.inspect(&["--deep"]), 1, &words);
    assert_says(&model.training("model.path", &["--deep"]), 1, &words);
    assert_says(&model.ask(), 1, &words);
    assert_says(&model.run(&["export", "model", "--out", "new"]), 1, &words);
    assert!(!model.folder.path().join("new").exists());
}

#[test]
fn what_is_read_otherwise_than_it_seems_is_said() {
    let model = Model::new();
    let folder = model.file("");
    let spec = Spec::load(&folder).unwrap();
    let mut tensors = weights::load(&folder, &spec, DType::F32, &Device::Cpu).unwrap();
    let [huge, zero] = [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    ];
    let values = tensors.get(huge).unwrap();
    tensors.insert(huge, (values.ones_like().unwrap() * 20_000.0).unwrap());
    tensors.insert(zero, values.zeros_like().unwrap());
    export::save(&tensors, &folder, 2_000_000).unwrap();
    let single = model.inspect(&["--deep"]);
    assert_says(
        &single,
        0,
        &[
            "model.safetensors is read",
            "model.safetensors.index.json names",
        ],
    );
    std::fs::rename(
        model.file("model.safetensors"),
        model.file("model-other.safetensors"),
    )
    .unwrap();
    let index = std::fs::read_to_string(model.file("model.safetensors.index.json")).unwrap();
    let mut index: Value = serde_json::from_str(&index).unwrap();
    let first = index["weight_map"][huge].clone();
    let last = index["weight_map"]["visual.patch_embed.proj.weight"].clone();
    assert_ne!(first, last);
    index["weight_map"][huge] = last;
    model.write("model.safetensors.index.json", index.to_string().as_bytes());
    let said = model.inspect(&["--deep"]);
    let other = format!("1 tensor in another file than the index says: {huge}");
    let words = ["does not name it: model-other.safetensors", &other];
    assert_says(&said, 0, &words);
    let values = [format!(
        "weights above 1e4, which no published model has: {huge} (2.0e4)"
    )];
    assert_says(
        &said,
        0,
        &[
            &values[0],
            &format!("all zero, so that nothing comes through: {zero};"),
        ],
    );
}

#[test]
fn a_template_without_videos_and_a_tokenizer_of_another_model_are_named() {
    let model = Model::new();
    let text_only =
        b"{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
    model.write("chat_template.jinja", text_only);
    let words = [
        "chat_template.jinja",
        "as templates of text models do",
        "put that of the model",
    ];
    assert_says(&model.ask(), 1, &words);
    assert_says(&model.training("model.path", &[]), 1, &words);
    assert_says(&model.evaluation(), 1, &words);
    let model = Model::new();
    let config = std::fs::read_to_string(model.file("config.json")).unwrap();
    let config = config.replace("\"video_token_id\": 550", "\"video_token_id\": 549");
    model.write("config.json", config.as_bytes());
    let words = ["`video_token_id`: 549, but the tokenizer's <|video_pad|> is 550"];
    assert_says(&model.inspect(&[]), 1, &words);
    assert_says(&model.training("model.path", &[]), 1, &words);
}
