//! Random models and `inspect device` through the binary, and the paper's configurations with such a model.

use serde_json::Value;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Output;

fn run(args: &[&str]) -> Output {
    crate::program().args(args).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = run(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A new folder with a random model, and what `inspect model` says of it.
fn random_model(more: &[&str]) -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let view = json(&[&["inspect", "model", path, "--init", "tiny"], more].concat());
    (folder, view)
}

fn clip() -> String {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ask/clip.mp4");
    clip.display().to_string()
}

#[test]
fn a_random_model_answers() {
    let (folder, view) = random_model(&["--shard-bytes", "1000000"]);
    let path = folder.path().to_str().unwrap();
    assert!(folder.path().join("model.safetensors.index.json").exists());
    let parameters = &view["parameters"];
    let parts = ["vision", "embedding", "layers", "head", "norm"];
    let sum: u64 = parts
        .map(|part| parameters[part].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(parameters["total"], sum);
    assert_eq!(view["bytes"], 2 * sum);
    assert_eq!(json(&["inspect", "model", path]), view);

    let question = [
        "--video",
        &clip(),
        "--question",
        "What happens?",
        "--max-tokens",
        "3",
    ];
    let settings = [
        "--set",
        "model.device=cpu",
        "--set",
        "model.dtype=f32",
        "--json",
    ];
    let answer = json(&[&["ask", "--model", path], &question[..], &settings[..]].concat());
    assert_eq!(answer["token_ids"].as_array().unwrap().len(), 3);

    let again = run(&["inspect", "model", path, "--init", "tiny"]);
    assert_eq!(again.status.code(), Some(2));
}

#[test]
fn a_tokenizer_is_copied_and_sizes_are_taken_from_another_model() {
    let mini = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mini");
    let mini = mini.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let config = format!("{mini}/config.json");
    let args = [
        "inspect",
        "model",
        path,
        "--init",
        &config,
        "--tokenizer",
        mini,
        "--dtype",
        "f32",
    ];
    let view = json(&args);
    assert_eq!(view["spec"], json(&["inspect", "model", mini])["spec"]);
    let tokenizer = |folder: &str| std::fs::read(format!("{folder}/tokenizer.json")).unwrap();
    assert!(tokenizer(path) == tokenizer(mini));
}

#[test]
fn a_device_agrees_with_the_cpu() {
    let (folder, _) = random_model(&[]);
    let path = folder.path().to_str().unwrap();
    let device = ["--set", "model.device=cpu"];
    let view = json(
        &[
            &["inspect", "device", "parity", "--model", path],
            &device[..],
        ]
        .concat(),
    );
    assert_eq!(view["agrees"], true);
    let differences = view["differences"].as_array().unwrap();
    let of = |dtype: &str, what: &str| {
        let found = differences
            .iter()
            .find(|one| one["dtype"] == dtype && one["what"] == what);
        found.unwrap()["max_error"].as_f64().unwrap()
    };
    // The same numbers on the same device; in bf16 others.
    assert!(of("f32", "CDPO loss") < 1e-12);
    assert!(of("f32", "gradient of visual.patch_embed.proj.weight") < 1e-6);
    assert!(of("bf16", "log-probability") > 1e-4);
    assert!(of("f32", "sampled log-probability") < 1e-4);
}

#[test]
fn decoding_and_learning_are_timed_against_measured_rates() {
    let (folder, _) = random_model(&["--dtype", "f32"]);
    let path = folder.path().to_str().unwrap();
    let work = [
        "--model",
        path,
        "--grid",
        "2,4,4",
        "--text-tokens",
        "8",
        "--completion-tokens",
        "8",
    ];
    let settings = [
        "model.device=cpu",
        "model.dtype=f32",
        "sampling.group_size=2",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|one| ["--set", *one]).collect();
    let timed =
        |what: &[&str]| json(&[&["inspect", "device"], what, &work[..], &settings].concat());

    // Tokens are timed by a difference of two times, which other work can make negative; the program says so then.
    let mut decode = vec!["inspect", "device", "decode", "--rows", "2,4"];
    decode.extend(&work[..6]);
    decode.extend(["--completion-tokens", "64"]);
    decode.extend(&settings);
    let decode = (0..10)
        .find_map(|_| {
            let output = run(&decode);
            let errors = String::from_utf8_lossy(&output.stderr);
            let busy = errors.contains("other work took the time");
            assert!(output.status.success() || busy, "{errors}");
            serde_json::from_slice::<Value>(&output.stdout).ok()
        })
        .unwrap();
    let batches = decode["batches"].as_array().unwrap();
    assert_eq!(batches.len(), 2);
    for (batch, rows) in batches.iter().zip([2, 4]) {
        assert_eq!(batch["rows"], rows);
        assert_eq!(batch["prompt_tokens"], 16);
        assert_eq!(batch["cuda_graph"], false);
        assert!(batch["tokens_per_second"]["possible"].as_f64().unwrap() > 0.0);
    }

    let record = folder.path().join("record.safetensors");
    let record = record.to_str().unwrap();
    let train = timed(&["train", "--repeats", "2", "--record", record]);
    recorded_work_is_readable(record);
    for phase in ["bias", "backward", "update"] {
        let median = train[format!("{phase}_seconds")].as_f64().unwrap();
        let range = &train[format!("{phase}_range")];
        let [fastest, slowest] = [0, 1].map(|end| range[end].as_f64().unwrap());
        assert!(0.0 < fastest && fastest <= median && median <= slowest);
    }
    // Two questions of 16 tokens, two completions each of 8, the last token of which takes no row.
    assert_eq!(train["rows"], 2 * (16 + 2 * 7));
    assert_eq!(train["targets"], 32);
    let speed = &train["backward_flops_per_second"];
    let seconds = train["backward_seconds"].as_f64().unwrap();
    let counted = speed["measured"].as_f64().unwrap() * seconds;
    let forward = train["forward_flops"].as_f64().unwrap();
    assert!(
        (counted / forward - 3.0).abs() < 1e-6,
        "{counted} {forward}"
    );
    // What is measured may exceed what is possible: other work may have disturbed the latter.
    let share = speed["measured"].as_f64().unwrap() / speed["possible"].as_f64().unwrap();
    assert!((speed["share"].as_f64().unwrap() / share - 1.0).abs() < 1e-6);
}

/// Two questions of 16 tokens, two completions each of 8, as other programs get them.
fn recorded_work_is_readable(path: &str) {
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    for (name, shape) in [
        ("prompt_ids", &[2, 16][..]),
        ("completion_ids", &[2, 2, 8]),
        ("video_grid_thw", &[2, 3]),
        ("pixel_values_videos", &[2, 32, 1176]),
        ("second_per_grid_ts", &[2]),
        ("logprob", &[2, 2, 8]),
    ] {
        assert_eq!(tensors[name].dims(), shape, "{name}");
    }
    let logprob = tensors["logprob"].flatten_all().unwrap();
    let logprob: Vec<f32> = logprob.to_vec1().unwrap();
    assert!(
        logprob
            .iter()
            .all(|&value| value < 0.0 && value.is_finite())
    );
}

/// Only a GPU has graphs, so on a CPU what is measured is not what was asked for.
#[test]
fn a_graph_that_was_asked_for_and_is_not_there_fails_the_check() {
    let (folder, _) = random_model(&["--dtype", "f32"]);
    let mut args = vec!["inspect", "device", "decode", "--rows", "2"];
    args.extend(["--model", folder.path().to_str().unwrap()]);
    args.extend(["--grid", "2,4,4", "--text-tokens", "8"]);
    args.extend(["--completion-tokens", "64"]);
    for setting in [
        "model.device=cpu",
        "model.dtype=f32",
        "sampling.group_size=2",
        "sampling.cuda_graph=true",
    ] {
        args.extend(["--set", setting]);
    }
    // Other work can make the times useless; the program says so then.
    let output = (0..10).map(|_| run(&args)).find(|output| {
        let errors = String::from_utf8_lossy(&output.stderr);
        !errors.contains("other work took the time")
    });
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    let batch = &view["batches"][0];
    assert_eq!(batch["graph_steps"], 0);
    assert!(batch["plain_steps"].as_u64().unwrap() > 30, "{batch}");
    assert_eq!(batch["no_graph"], "a CPU has no CUDA graphs");
    let errors = String::from_utf8_lossy(&output.stderr);
    let sentence = "decoding did not run from a CUDA graph: a CPU has no CUDA graphs";
    assert!(errors.contains(sentence), "{errors}");
}

/// Each configuration of the paper passes its dry run, with memory and time, as far as its files exist.
#[test]
fn the_papers_configurations_pass_their_dry_runs() {
    let (model, _) = random_model(&[]);
    let folder = tempfile::tempdir().unwrap();
    let questions = folder.path().join("train.json");
    let line = |kind: &str| {
        format!(
            r#"{{"problem": "What will happen?\nA. this\nB. that", "solution": "<answer>A</answer>", "video": "{}", "kind": "{kind}"}}"#,
            clip()
        )
    };
    let lines = [line("observational"), line("inferential")].join(",");
    std::fs::write(&questions, format!("[{lines}]")).unwrap();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/clevrer");
    let mut seen = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let config = entry.unwrap().path();
        let name = config.file_stem().unwrap().to_str().unwrap().to_owned();
        let verb = if name.starts_with("bias") {
            "train-bias"
        } else {
            "train-cdpo"
        };
        let mut settings = vec![
            format!("model.path={}", model.path().display()),
            format!("data.questions={}", questions.display()),
            format!("data.video_root={}", folder.path().display()),
            format!("output_dir={}", folder.path().join("run").display()),
            "data.samples=1".into(),
            "model.device=cpu".into(),
        ];
        if verb == "train-cdpo" && name != "grpo" {
            settings.push(format!("model.bias_model={}", model.path().display()));
        }
        let mut args = vec![verb, "--dry-run", "--config", config.to_str().unwrap()];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let output = run(&args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        let steps = if name == "bias_script" {
            "The first 500 of 1000 steps of 1 "
        } else {
            "500 steps of 2 "
        };
        for word in [steps, "about", "Time, at"] {
            assert!(text.contains(word), "{name}: no `{word}` in {text}");
        }
        assert!(!folder.path().join("run").exists());
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn measurements_of_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let work = ["--model", "data/mini", "--set", "model.device=cpu"];
    for (what, option, value) in [
        ("decode", "--completion-tokens", "0"),
        ("decode", "--rows", "0"),
        ("decode", "--grid", "0,8,8"),
        ("decode", "--grid", "4294967294,8,8"),
        ("train", "--repeats", "0"),
        ("train", "--text-tokens", "18446744073709551615"),
        // A device file; as a folder would be.
        ("train", "--record", "/dev/full"),
        ("train", "--record", folder.path().to_str().unwrap()),
    ] {
        let output = run(&[&["inspect", "device", what, option, value], &work[..]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {errors}");
        assert!(errors.contains(option), "{option} {value}: {errors}");
    }
    let full = std::fs::metadata("/dev/full").unwrap();
    assert!(full.file_type().is_char_device());
}
