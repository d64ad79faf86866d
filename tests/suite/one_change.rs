//! One property of a good data set, model folder, template or run is changed at a time: before anything is computed, the first
//! error names it.

use crate::run::{stderr, world};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is asked about the changed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// `train-grpo --dry-run`.
    DryRun,
    /// The same with `--deep`.
    DeepDryRun,
    /// `data check` with the model's tokenizer.
    Check,
}
use Asked::{Check, DeepDryRun, DryRun};

/// A change, what is asked then, and what the first message must contain.
struct Change {
    name: &'static str,
    asked: Asked,
    edit: fn(&Set),
    named: &'static [&'static str],
}

/// A small set in a folder of its own: `q.json`, `videos/`, `model/`, and settings that are added.
struct Set {
    folder: tempfile::TempDir,
}

impl Set {
    /// Four questions about two clips, and the untrained miniature.
    fn good() -> Self {
        let set = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let questions = std::fs::read(world().join("world/train_questions.json")).unwrap();
        let mut questions: Vec<Value> = serde_json::from_slice(&questions).unwrap();
        questions.truncate(4);
        std::fs::create_dir_all(set.path("videos")).unwrap();
        std::fs::create_dir_all(set.path("model")).unwrap();
        for question in &questions {
            let clip = question["video"].as_str().unwrap();
            let copy = set.path("videos").join(clip);
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(world().join("world/videos").join(clip), copy).unwrap();
        }
        for entry in std::fs::read_dir(world().join("untrained")).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                std::fs::copy(entry.path(), set.path("model").join(entry.file_name())).unwrap();
            }
        }
        set.write("q.json", json!(questions).to_string());
        set
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(name)).unwrap();
        change(&mut value);
        self.write(name, value.to_string());
    }

    /// Changes the third question.
    fn question(&self, field: &str, value: Value) {
        self.json("q.json", |all| all[2][field] = value);
    }

    fn without(&self, field: &str) {
        self.json("q.json", |all| {
            all[2].as_object_mut().unwrap().remove(field);
        });
    }

    fn clip(&self) -> String {
        let all: Value = serde_json::from_slice(&self.read("q.json")).unwrap();
        format!("videos/{}", all[0]["video"].as_str().unwrap())
    }

    fn config(&self, change: impl FnOnce(&mut Value)) {
        self.json("model/config.json", change);
    }

    /// Writes the chat template of the model.
    fn template(&self, source: &str) {
        self.write("model/chat_template.jinja", source);
    }

    /// The template that the model has.
    fn own_template(&self) -> String {
        let file: Value = serde_json::from_slice(&self.read("model/chat_template.json")).unwrap();
        file["chat_template"].as_str().unwrap().to_owned()
    }

    /// The weights under other names and with other values.
    fn weights(&self, change: impl Fn(&mut Vec<(String, Stored)>)) {
        let bytes = self.read("model/model.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<(String, Stored)> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let stored = Stored {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                (name, stored)
            })
            .collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        change(&mut tensors);
        let views = tensors.iter().map(|(name, stored)| {
            let view = safetensors::tensor::TensorView::new(
                stored.dtype,
                stored.shape.clone(),
                &stored.bytes,
            );
            (name.as_str(), view.unwrap())
        });
        let written = safetensors::serialize(views, None::<HashMap<String, String>>).unwrap();
        self.write("model/model.safetensors", written);
    }

    fn setting(&self, line: &str) {
        self.write("settings", line);
    }

    /// The first error or warning, and the exit code.
    fn ask(&self, asked: Asked) -> (String, i32) {
        let mut command = crate::program();
        command.current_dir(self.folder.path());
        match asked {
            Check => command.args(["data", "check", "--model", "model"]),
            DryRun => command.args(["train-grpo", "--dry-run"]),
            DeepDryRun => command.args(["train-grpo", "--dry-run", "--deep"]),
        };
        let mut settings: Vec<String> = [
            "model.path=model",
            "model.dtype=f32",
            "model.device=cpu",
            "output_dir=run",
            "data.questions=q.json",
            "data.video_root=videos",
            "video.min_frames=8",
            "video.max_frames=8",
            "video.min_pixels=12544",
            "video.max_pixels=12544",
            "sampling.group_size=2",
            "train.steps=2",
            "train.questions_per_step=2",
        ]
        .map(String::from)
        .to_vec();
        if let Ok(line) = std::fs::read_to_string(self.path("settings")) {
            settings.push(line);
        }
        for setting in settings {
            command.args(["--set", &setting]);
        }
        let output = command.output().unwrap();
        let code = output.status.code().unwrap();
        let log = stderr(&output);
        let is_first = |line: &&str| line.starts_with("error") || line.contains(" WARN ");
        let stdout = String::from_utf8(output.stdout).unwrap();
        // A message may have several lines; what `data check` finds is in its table.
        let message = match log.lines().position(|line| is_first(&line)) {
            Some(first) => log.lines().skip(first).collect::<Vec<_>>().join("\n"),
            None => stdout,
        };
        (message, code)
    }
}

#[derive(Clone)]
struct Stored {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

/// What is wrong with a question file.
const QUESTIONS: &[Change] = &[
    Change {
        name: "a letter beyond the options",
        asked: DryRun,
        edit: |set| set.question("solution", json!("<answer>Z</answer>")),
        named: &["q.json", "1 of 4 questions", "\"Z\" is not among the"],
    },
    Change {
        name: "two options in one breath",
        asked: DryRun,
        edit: |set| set.question("solution", json!("A or B")),
        named: &["q.json", "\"A or B\" is not among the"],
    },
    Change {
        name: "no solution",
        asked: DryRun,
        edit: |set| set.without("solution"),
        named: &["q.json, question 2", "solution"],
    },
    Change {
        name: "an empty solution",
        asked: DryRun,
        edit: |set| set.question("solution", json!("<answer></answer>")),
        named: &["question 2", "`solution` names no answer"],
    },
    Change {
        name: "a solution that is a number of nothing",
        asked: DryRun,
        edit: |set| set.question("solution", json!("7")),
        named: &["\"7\" is not among the", "--first-option"],
    },
    Change {
        name: "an option named twice",
        asked: Check,
        edit: |set| set.question("solution", json!("A,A")),
        named: &["names an option twice"],
    },
    Change {
        name: "an empty problem",
        asked: DryRun,
        edit: |set| set.question("problem", json!(" ")),
        named: &["question 2", "`problem` is empty"],
    },
    Change {
        name: "no problem",
        asked: DryRun,
        edit: |set| set.without("problem"),
        named: &["question 2", "problem"],
    },
    Change {
        name: "no clip",
        asked: DryRun,
        edit: |set| set.without("video"),
        named: &["question 2", "video"],
    },
    Change {
        name: "an empty path",
        asked: DryRun,
        edit: |set| set.question("video", json!("")),
        named: &["question 2", "`video` is empty"],
    },
    Change {
        name: "a clip that is not there",
        asked: DryRun,
        edit: |set| set.question("video", json!("other.mp4")),
        named: &["other.mp4", "do not exist"],
    },
    Change {
        name: "a clip on the web",
        asked: DryRun,
        edit: |set| set.question("video", json!("https://example.org/a.mp4")),
        named: &["https://example.org/a.mp4", "download"],
    },
    Change {
        name: "an id twice",
        asked: DryRun,
        edit: |set| {
            set.json("q.json", |all| {
                let id = all[0]["id"].clone();
                all[2]["id"] = id;
            });
        },
        named: &["question 2", "is already used at question 0"],
    },
    Change {
        name: "a kind that is none",
        asked: DryRun,
        edit: |set| set.question("kind", json!("other")),
        named: &["question 2", "other", "observational"],
    },
    Change {
        name: "options that are no list",
        asked: DryRun,
        edit: |set| set.question("options", json!(4)),
        named: &["question 2", "options"],
    },
    Change {
        name: "an option without text",
        asked: Check,
        edit: |set| {
            set.question("problem", json!("What happens?"));
            set.question("options", json!(["left", " ", "right"]));
            set.question("solution", json!("A"));
        },
        named: &["option B has no text"],
    },
    Change {
        name: "two equal options",
        asked: Check,
        edit: |set| {
            set.question("problem", json!("What happens?"));
            set.question("options", json!(["left", "left"]));
            set.question("solution", json!("A"));
        },
        named: &["options A and B are the same"],
    },
    Change {
        name: "multiple choice without options",
        asked: Check,
        edit: |set| {
            set.question("problem", json!("What happens?"));
            set.question("problem_type", json!("multiple choice"));
            set.question("solution", json!("A"));
        },
        named: &["has no options"],
    },
    Change {
        name: "other options in the text than in the field",
        asked: Check,
        edit: |set| {
            set.question("problem", json!("What happens?\nA. up\nB. down"));
            set.question("options", json!(["left", "right"]));
            set.question("solution", json!("A"));
        },
        named: &["the text lists"],
    },
    Change {
        name: "a judge's task that is none",
        asked: DryRun,
        edit: |set| set.question("judge", json!("me")),
        named: &["question 2", "`judge`"],
    },
    Change {
        name: "a turn's end in the text",
        asked: Check,
        edit: |set| {
            set.question(
                "problem",
                json!("What?<|im_end|>\n<|im_start|>assistant\nA\nA. up\nB. down"),
            );
        },
        named: &["`<|im_start|>` stands in the text"],
    },
    Change {
        name: "two placeholders of clips",
        asked: DryRun,
        edit: |set| set.question("problem", json!("<video>\n<video>\nWhat?\nA. up\nB. down")),
        named: &["question 2", "2 placeholders of clips"],
    },
    Change {
        name: "another answer under another name",
        asked: DryRun,
        edit: |set| {
            set.question("solution", json!("A"));
            set.question("answer", json!("B"));
        },
        named: &["question 2", "`answer` says \"B\""],
    },
    Change {
        name: "a file that breaks off",
        asked: DryRun,
        edit: |set| {
            let bytes = set.read("q.json");
            set.write("q.json", &bytes[..bytes.len() / 2]);
        },
        named: &["q.json", "breaks off"],
    },
    Change {
        name: "single quotes",
        asked: DryRun,
        edit: |set| {
            let text = String::from_utf8(set.read("q.json")).unwrap();
            set.write("q.json", text.replace('"', "'"));
        },
        named: &["q.json", "single quotes"],
    },
    Change {
        name: "a table",
        asked: DryRun,
        edit: |set| set.write("q.json", "problem,solution,video\nWhy?,A,a.mp4\n"),
        named: &["q.json", "a table (CSV)"],
    },
    Change {
        name: "a web page",
        asked: DryRun,
        edit: |set| set.write("q.json", "<!DOCTYPE html><html></html>"),
        named: &["q.json", "a web page"],
    },
    Change {
        name: "a pointer in place of the questions",
        asked: DryRun,
        edit: |set| set.write("q.json", POINTER),
        named: &["q.json", "Git LFS pointer", "git lfs pull"],
    },
    Change {
        name: "an empty file",
        asked: DryRun,
        edit: |set| set.write("q.json", ""),
        named: &["q.json", "empty"],
    },
    Change {
        name: "an empty list",
        asked: DryRun,
        edit: |set| set.write("q.json", "[]"),
        named: &["q.json", "holds no question"],
    },
    Change {
        name: "another encoding",
        asked: DryRun,
        edit: |set| {
            let text = String::from_utf8(set.read("q.json")).unwrap();
            let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            set.write("q.json", [&[0xff, 0xfe][..], &wide].concat());
        },
        named: &["q.json", "UTF-16"],
    },
    Change {
        name: "a number that is none",
        asked: DryRun,
        edit: |set| {
            let text = String::from_utf8(set.read("q.json")).unwrap();
            set.write(
                "q.json",
                text.replacen("\"problem\":", "\"solution\":NaN,\"problem\":", 1),
            );
        },
        named: &["q.json", "NaN"],
    },
    Change {
        name: "another ending",
        asked: DryRun,
        edit: |set| {
            set.write("q.txt", set.read("q.json"));
            set.setting("data.questions=q.txt");
        },
        named: &["q.txt", ".jsonl"],
    },
];

/// What is wrong with a clip.
const CLIPS: &[Change] = &[
    Change {
        name: "a pointer in place of a clip",
        asked: Check,
        edit: |set| set.write(&set.clip(), POINTER),
        named: &["Git LFS pointer"],
    },
    Change {
        name: "an empty clip",
        asked: Check,
        edit: |set| set.write(&set.clip(), ""),
        named: &["empty"],
    },
    Change {
        name: "a web page under a clip's name",
        asked: Check,
        edit: |set| set.write(&set.clip(), "<!DOCTYPE html><html><body>404</body></html>"),
        named: &["web page"],
    },
    Change {
        name: "a cut clip",
        asked: Check,
        edit: |set| {
            let bytes = set.read(&set.clip());
            set.write(&set.clip(), &bytes[..bytes.len() * 2 / 3]);
        },
        named: &["corrupt"],
    },
    Change {
        name: "a part beyond the end",
        asked: Check,
        edit: |set| {
            let clip = set.clip().replace("videos/", "");
            set.question("video", json!(format!("{clip}#t=1000,2000")));
        },
        named: &["#t=1000,2000", "the clip has 4.00 s"],
    },
    Change {
        name: "the same, before a run",
        asked: DryRun,
        edit: |set| {
            let clip = set.clip().replace("videos/", "");
            set.question("video", json!(format!("{clip}#t=1000,2000")));
        },
        named: &["#t=1000,2000", "the clip has 4.00 s"],
    },
    Change {
        name: "a part that ends before it begins",
        asked: Check,
        edit: |set| {
            let clip = set.clip().replace("videos/", "");
            set.question("video", json!(format!("{clip}#t=2,1")));
        },
        named: &["#t=2,1"],
    },
    Change {
        name: "a folder without images",
        asked: Check,
        edit: |set| {
            std::fs::create_dir(set.path("videos/empty")).unwrap();
            set.question("video", json!("empty"));
        },
        named: &["empty", "image"],
    },
];

/// What is wrong with a model folder.
const MODEL: &[Change] = &[
    Change {
        name: "no config",
        asked: DryRun,
        edit: |set| std::fs::remove_file(set.path("model/config.json")).unwrap(),
        named: &["model", "config.json"],
    },
    Change {
        name: "another architecture",
        asked: DryRun,
        edit: |set| set.config(|config| config["model_type"] = json!("qwen2_vl")),
        named: &["config.json", "`qwen2_vl`", "is not supported"],
    },
    Change {
        name: "another width",
        asked: DryRun,
        edit: |set| set.config(|config| config["intermediate_size"] = json!(96)),
        named: &["mlp.", "expected [96"],
    },
    Change {
        name: "one layer more",
        asked: DryRun,
        edit: |set| {
            set.config(|config| {
                let layers = config["num_hidden_layers"].as_u64().unwrap();
                config["num_hidden_layers"] = json!(layers + 1);
            });
        },
        named: &["missing", "model.layers."],
    },
    Change {
        name: "other rotary positions",
        asked: DryRun,
        edit: |set| set.config(|config| config["rope_scaling"]["type"] = json!("yarn")),
        named: &["config.json", "`yarn`"],
    },
    Change {
        name: "quantized weights",
        asked: DryRun,
        edit: |set| {
            set.config(|config| {
                config["quantization_config"] = json!({"quant_method": "awq", "bits": 4});
            });
        },
        named: &["config.json", "awq"],
    },
    Change {
        name: "another id for the clip's token",
        asked: DryRun,
        edit: |set| set.config(|config| config["video_token_id"] = json!(3)),
        named: &["video_token_id", "3"],
    },
    Change {
        name: "no weights",
        asked: DryRun,
        edit: |set| std::fs::remove_file(set.path("model/model.safetensors")).unwrap(),
        named: &["model", "model.safetensors"],
    },
    Change {
        name: "weights of torch only",
        asked: DryRun,
        edit: |set| {
            let from = set.path("model/model.safetensors");
            std::fs::rename(from, set.path("model/pytorch_model.bin")).unwrap();
        },
        named: &["pytorch_model.bin", "safe_serialization=True"],
    },
    Change {
        name: "a pointer in place of the weights",
        asked: DryRun,
        edit: |set| set.write("model/model.safetensors", POINTER),
        named: &["model.safetensors", "Git LFS pointer"],
    },
    Change {
        name: "cut weights",
        asked: DryRun,
        edit: |set| {
            let bytes = set.read("model/model.safetensors");
            set.write("model/model.safetensors", &bytes[..bytes.len() - 100]);
        },
        named: &["model.safetensors", "cut"],
    },
    Change {
        name: "a shard that is not there",
        asked: DryRun,
        edit: |set| {
            std::fs::remove_file(set.path("model/model.safetensors")).unwrap();
            let index =
                json!({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}});
            set.write("model/model.safetensors.index.json", index.to_string());
        },
        named: &["model-00001-of-00002.safetensors", "there is no such file"],
    },
    Change {
        name: "an adapter",
        asked: DryRun,
        edit: |set| {
            std::fs::remove_file(set.path("model/config.json")).unwrap();
            let from = set.path("model/model.safetensors");
            std::fs::rename(from, set.path("model/adapter_model.safetensors")).unwrap();
            let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "me/base"});
            set.write("model/adapter_config.json", adapter.to_string());
        },
        named: &["LoRA adapter of me/base", "merge_and_unload"],
    },
    Change {
        name: "an adapter beside a config",
        asked: DryRun,
        edit: |set| {
            let from = set.path("model/model.safetensors");
            std::fs::rename(from, set.path("model/adapter_model.safetensors")).unwrap();
            let adapter = json!({"peft_type": "LORA", "base_model_name_or_path": "me/base"});
            set.write("model/adapter_config.json", adapter.to_string());
        },
        named: &["LoRA adapter of me/base", "merge_and_unload"],
    },
    Change {
        name: "a tensor too few",
        asked: DryRun,
        edit: |set| {
            set.weights(|tensors| tensors.retain(|(name, _)| name != "model.norm.weight"));
        },
        named: &["missing", "model.norm.weight"],
    },
    Change {
        name: "a tensor too many",
        asked: DryRun,
        edit: |set| {
            set.weights(|tensors| {
                let other = tensors[0].1.clone();
                tensors.push(("model.other.weight".into(), other));
            });
        },
        named: &["unexpected", "model.other.weight"],
    },
    Change {
        name: "a prefix of another program",
        asked: DryRun,
        edit: |set| {
            set.weights(|tensors| {
                for (name, _) in tensors.iter_mut() {
                    *name = format!("net.inner.{name}");
                }
            });
        },
        named: &["every other name begins with `net."],
    },
    Change {
        name: "tensors that ZeRO-3 left empty",
        asked: DryRun,
        edit: |set| {
            set.weights(|tensors| {
                for (_, stored) in tensors.iter_mut() {
                    stored.shape = vec![0];
                    stored.bytes.clear();
                }
            });
        },
        named: &["ZeRO-3"],
    },
    Change {
        name: "weights in eight bits",
        asked: DryRun,
        edit: |set| {
            set.weights(|tensors| {
                for (_, stored) in tensors.iter_mut() {
                    stored.dtype = safetensors::Dtype::F8_E4M3;
                    stored.bytes.truncate(stored.bytes.len() / 4);
                }
            });
        },
        named: &["F8_E4M3"],
    },
    Change {
        name: "a head of its own beside a tied embedding",
        asked: DeepDryRun,
        edit: |set| {
            set.weights(|tensors| {
                let embedding = tensors
                    .iter()
                    .find(|(name, _)| name == "model.embed_tokens.weight")
                    .unwrap();
                let mut head = embedding.1.clone();
                head.bytes[2] ^= 1;
                tensors.push(("lm_head.weight".into(), head));
            });
        },
        named: &["lm_head"],
    },
    Change {
        name: "a value that is no number",
        asked: DeepDryRun,
        edit: |set| {
            set.weights(|tensors| {
                let norm = tensors
                    .iter_mut()
                    .find(|(name, _)| name == "model.norm.weight")
                    .unwrap();
                norm.1.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            });
        },
        named: &["model.norm.weight", "NaN"],
    },
    Change {
        name: "an infinite value",
        asked: DeepDryRun,
        edit: |set| {
            set.weights(|tensors| {
                let norm = tensors
                    .iter_mut()
                    .find(|(name, _)| name == "model.norm.weight")
                    .unwrap();
                norm.1.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            });
        },
        named: &["model.norm.weight", "infinite"],
    },
    Change {
        name: "a matrix of zeros",
        asked: DeepDryRun,
        edit: |set| {
            set.weights(|tensors| {
                let layer = tensors
                    .iter_mut()
                    .find(|(name, _)| name.ends_with("mlp.down_proj.weight"))
                    .unwrap();
                layer.1.bytes.fill(0);
            });
        },
        named: &["mlp.down_proj.weight", "zero"],
    },
    Change {
        name: "a larger tokenizer",
        asked: DryRun,
        edit: |set| {
            set.json("model/tokenizer.json", |tokenizer| {
                let added = tokenizer["added_tokens"].as_array_mut().unwrap();
                let mut more = added[0].clone();
                more["id"] = json!(90_000);
                more["content"] = json!("<more>");
                added.push(more);
            });
        },
        named: &["tokenizer", "90000"],
    },
    Change {
        name: "no tokenizer",
        asked: DryRun,
        edit: |set| std::fs::remove_file(set.path("model/tokenizer.json")).unwrap(),
        named: &["tokenizer.json"],
    },
    Change {
        name: "a pointer in place of the tokenizer",
        asked: DryRun,
        edit: |set| set.write("model/tokenizer.json", POINTER),
        named: &["tokenizer.json", "Git LFS pointer"],
    },
    Change {
        name: "a tokenizer without the turn's end",
        asked: DryRun,
        edit: |set| {
            let text = String::from_utf8(set.read("model/tokenizer.json")).unwrap();
            set.write(
                "model/tokenizer.json",
                text.replace("<|im_end|>", "<|end|>"),
            );
        },
        named: &["tokenizer.json", "`<|im_end|>`"],
    },
    Change {
        name: "a tokenizer that forgets capitals",
        asked: DryRun,
        edit: |set| {
            set.json("model/tokenizer.json", |tokenizer| {
                tokenizer["normalizer"] = json!({"type": "Lowercase"});
            });
        },
        named: &["the tokenizer is in the way", "4 of 4 questions"],
    },
    Change {
        name: "the same, before a question is asked",
        asked: Check,
        edit: |set| {
            set.json("model/tokenizer.json", |tokenizer| {
                tokenizer["normalizer"] = json!({"type": "Lowercase"});
            });
        },
        named: &["the tokenizer is in the way"],
    },
];

/// What is wrong with a chat template.
const TEMPLATE: &[Change] = &[
    Change {
        name: "no template",
        asked: DryRun,
        edit: |set| {
            std::fs::remove_file(set.path("model/chat_template.json")).unwrap();
            set.json("model/tokenizer_config.json", |config| {
                config.as_object_mut().unwrap().remove("chat_template");
            });
        },
        named: &["chat template"],
    },
    Change {
        name: "a template that does not parse",
        asked: DryRun,
        edit: |set| set.template("{% for message in messages %}{{ message.content }}"),
        named: &["chat_template.jinja"],
    },
    Change {
        name: "a template for text only",
        asked: DryRun,
        edit: |set| {
            set.template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n");
        },
        named: &["chat_template.jinja"],
    },
    Change {
        name: "a template that shows the clip twice",
        asked: DryRun,
        edit: |set| {
            let twice = set
                .own_template()
                .replace("<|video_pad|>", "<|video_pad|><|video_pad|>");
            set.template(&twice);
        },
        named: &["chat_template.jinja", "<|video_pad|>"],
    },
    Change {
        name: "a template that refuses",
        asked: DryRun,
        edit: |set| set.template("{{ raise_exception('only text') }}"),
        named: &["only text"],
    },
    Change {
        name: "a template that leaves the turn closed",
        asked: DryRun,
        edit: |set| {
            let own = set.own_template();
            let start = own.find("{%- if add_generation_prompt -%}").unwrap();
            set.template(&own[..start]);
        },
        named: &[
            "the chat template is in the way",
            "does not open the assistant's turn",
        ],
    },
    Change {
        name: "a template that answers itself",
        asked: DryRun,
        edit: |set| {
            let begun = set.own_template().replace(
                "assistant\\n",
                "assistant\\n<think>\\n</think>\\nWell. <answer>",
            );
            set.template(&begun);
        },
        named: &[
            "the chat template is in the way",
            "begins the model's turn with",
        ],
    },
];

/// What is wrong with the settings or the run's folder.
const RUN: &[Change] = &[
    Change {
        name: "a misspelt setting",
        asked: DryRun,
        edit: |set| set.setting("data.qestions=q.json"),
        named: &["data.qestions", "data.questions"],
    },
    Change {
        name: "a negative coefficient",
        asked: DryRun,
        edit: |set| set.setting("kl.coefficient=-0.01"),
        named: &["kl.coefficient", "must not be negative"],
    },
    Change {
        name: "no such file",
        asked: DryRun,
        edit: |set| set.setting("data.questions=other.json"),
        named: &["data.questions", "other.json"],
    },
    Change {
        name: "no such folder of clips",
        asked: DryRun,
        edit: |set| set.setting("data.video_root=other"),
        named: &["data.video_root", "other"],
    },
    Change {
        name: "no such model",
        asked: DryRun,
        edit: |set| set.setting("model.path=./other"),
        named: &["model.path", "./other"],
    },
    Change {
        name: "a prompt longer than allowed",
        asked: DryRun,
        edit: |set| set.setting("sampling.max_prompt_tokens=20"),
        named: &["sampling.max_prompt_tokens = 20"],
    },
    Change {
        name: "a penalty that training cannot learn under",
        asked: DryRun,
        edit: |set| set.setting("sampling.repetition_penalty=1.05"),
        named: &["sampling.repetition_penalty", "must be 1 in training"],
    },
    Change {
        name: "a reward of nothing",
        asked: DryRun,
        edit: |set| set.setting("reward.accuracy_weight=-1"),
        named: &["reward.accuracy_weight", "at least 0"],
    },
];

#[test]
fn the_first_message_names_what_was_changed() {
    let lists = [QUESTIONS, CLIPS, MODEL, TEMPLATE, RUN];
    let all: Vec<&Change> = lists.into_iter().flatten().collect();
    assert!(all.len() >= 60, "{} kinds", all.len());
    let set = Set::good();
    for asked in [DryRun, DeepDryRun, Check] {
        let (said, code) = set.ask(asked);
        assert_eq!(code, 0, "{asked:?} of the good set: {said}");
    }
    let answers = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(change) = all.get(place) else {
                        break;
                    };
                    let answer = Answer::to(change);
                    answers.lock().unwrap().insert(place, answer);
                }
            });
        }
    });
    let answers: Vec<Answer> = answers.into_inner().unwrap().into_values().collect();
    let wrong: Vec<String> = answers.iter().filter_map(Answer::problem).collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n\n")
    );
    if std::env::var_os("UPDATE_RESULTS").is_some() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/benches/results/first_messages.md"
        );
        std::fs::write(path, table(&answers)).unwrap();
    }
}

/// What the program says to a change.
struct Answer {
    change: &'static Change,
    said: String,
    code: i32,
}

impl Answer {
    fn to(change: &'static Change) -> Self {
        let set = Set::good();
        (change.edit)(&set);
        let (said, code) = set.ask(change.asked);
        let said: Vec<&str> = said.lines().take(12).collect();
        let place = set.folder.path().display().to_string();
        Self {
            change,
            said: said.join("\n").replace(&place, "."),
            code,
        }
    }

    /// What is not as it should be.
    fn problem(&self) -> Option<String> {
        let lacks = self
            .change
            .named
            .iter()
            .find(|part| !self.said.contains(**part));
        // What may be meant is warned of.
        let passed = self.code == 0 && !self.said.contains(" WARN ");
        (passed || lacks.is_some()).then(|| {
            let Self { change, said, code } = self;
            format!("{}: exit {code}, lacks {lacks:?}:\n{said}", change.name)
        })
    }
}

fn table(answers: &[Answer]) -> String {
    let mut text = format!(
        "# What the first message says\n\n{} changes, one at a time, to a data set, model folder, template or setting that is good. \
         Written by `UPDATE_RESULTS=1 scripts/test.sh --test suite one_change`; the test asserts that each message names the change.\n\n\
         | changed | asked | exit | first message |\n|---|---|---:|---|\n",
        answers.len()
    );
    for Answer { change, said, code } in answers {
        let asked = match change.asked {
            Check => "`data check`",
            DryRun => "`train-grpo --dry-run`",
            DeepDryRun => "`train-grpo --dry-run --deep`",
        };
        // Of a table the line of the finding, of a warning what stands behind its time.
        let is_named = |line: &&str| change.named.iter().any(|part| line.contains(part));
        let line = if said.starts_with("error") {
            said.replace('\n', " ")
        } else {
            said.lines().find(is_named).unwrap_or_default().to_owned()
        };
        let line = line
            .split_once(" WARN ")
            .map_or(line.as_str(), |(_, behind)| behind);
        let words: Vec<&str> = line.split_whitespace().collect();
        // What stands between backticks in a guide is a name of the program: here some are not.
        let line = words.join(" ").replace('|', "\\|").replace('<', "&lt;");
        let line = line.replace('`', "'");
        text += &format!("| {} | {asked} | {code} | {line} |\n", change.name);
    }
    text
}

/// What is done to a good set that leaves it good.
type Respelling = (&'static str, fn(&Set));

#[test]
fn a_good_set_stays_good_however_it_is_spelt() {
    let respelt: &[Respelling] = &[
        ("solutions", |set| {
            set.json("q.json", |all| {
                for question in all.as_array_mut().unwrap() {
                    let letters = question["solution"]
                        .as_str()
                        .unwrap()
                        .replace("<answer>", "")
                        .replace("</answer>", "");
                    question["solution"] = json!(format!(
                        "**({})**",
                        letters.to_lowercase().replace(',', "), (")
                    ));
                }
            });
        }),
        ("a mark of the byte order", |set| {
            let text = set.read("q.json");
            set.write("q.json", [b"\xef\xbb\xbf", text.as_slice()].concat());
        }),
        ("a placeholder", |set| {
            set.json("q.json", |all| {
                for question in all.as_array_mut().unwrap() {
                    let text = format!("<video>\n{}", question["problem"].as_str().unwrap());
                    question["problem"] = json!(text);
                }
            });
        }),
        ("a thought begun by the template", |set| {
            let begun = set
                .own_template()
                .replace("assistant\\n", "assistant\\n<think>\\n");
            set.template(&begun);
        }),
        ("a thought ended by the template", |set| {
            let begun = set
                .own_template()
                .replace("assistant\\n", "assistant\\n<think>\\n\\n</think>\\n\\n");
            set.template(&begun);
        }),
        ("tags that are special tokens", |set| {
            set.json("model/tokenizer.json", |tokenizer| {
                let added = tokenizer["added_tokens"].as_array_mut().unwrap();
                for (place, tag) in ["<think>", "</think>", "<answer>", "</answer>"]
                    .iter()
                    .enumerate()
                {
                    // In place of tokens that nothing here uses.
                    added[3 + place]["content"] = json!(tag);
                }
            });
        }),
        ("a prefix of a wrapped model", |set| {
            set.weights(|tensors| {
                for (name, _) in tensors.iter_mut() {
                    *name = format!("module.{name}");
                }
            });
        }),
        ("tags of a template of transformers", |set| {
            let own = set.own_template().replace(
                "{{- part.text -}}",
                "{%- generation -%}{{- part.text -}}{%- endgeneration -%}",
            );
            set.template(&own);
        }),
    ];
    for (name, change) in respelt {
        let set = Set::good();
        change(&set);
        for asked in [DryRun, Check] {
            let (said, code) = set.ask(asked);
            assert_eq!(code, 0, "{name}, {asked:?}: {said}");
        }
    }
}
