//! Runs of a small world through the program, for every test target that starts one: its root says which program.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A small world and an untrained miniature model, made once.
pub(crate) fn world() -> &'static Path {
    static WORLD: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = WORLD.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let text = |name: &str| folder.path().join(name).display().to_string();
        let output = crate::program()
            .args(["data", "mini", "--train", "8", "--validation", "1"])
            .args(["--sft", "4", "--seed", "3"])
            .args(["--out", &text("world"), "--model", &text("untrained")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        folder
    });
    folder.path()
}

/// Settings of a run that takes seconds, in a folder of its own.
pub(crate) struct Run {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) verb: &'static str,
    settings: Vec<(String, String)>,
}

impl Run {
    pub(crate) fn new(verb: &'static str) -> Self {
        let questions = if verb == "train-sft" {
            "world/sft.jsonl"
        } else {
            "world/train_questions.json"
        };
        let path = |name: &str| world().join(name).display().to_string();
        let mut run = Self {
            folder: tempfile::tempdir().unwrap(),
            verb,
            settings: Vec::new(),
        };
        for (key, value) in [
            ("model.path", path("untrained").as_str()),
            ("model.dtype", "f32"),
            ("model.device", "cpu"),
            ("data.questions", &path(questions)),
            ("data.video_root", &path("world/videos")),
            ("video.min_frames", "8"),
            ("video.max_frames", "8"),
            ("video.min_pixels", "12544"),
            ("video.max_pixels", "12544"),
            ("sampling.group_size", "2"),
            ("sampling.max_new_tokens", "6"),
            ("train.steps", "4"),
            ("train.questions_per_step", "2"),
            ("optimizer.learning_rate", "1e-3"),
        ] {
            run.set(key, value);
        }
        run
    }

    /// CDPO against a bias model that differs from the policy, so that every step has a gradient.
    pub(crate) fn cdpo() -> Self {
        static BIAS: OnceLock<Run> = OnceLock::new();
        let bias = BIAS.get_or_init(|| {
            let mut run = Self::new("train-sft");
            run.set("train.steps", "1");
            run.set("optimizer.schedule", "constant");
            assert_code(&run.run(), 0);
            run
        });
        let mut run = Self::new("train-cdpo");
        let model = bias.output().join("checkpoints/latest");
        run.set("model.bias_model", &model.display().to_string());
        run
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn setting(&self, key: &str) -> &str {
        let known = self.settings.iter().find(|(known, _)| known == key);
        &known.unwrap().1
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = crate::program();
        command.args(self.arguments());
        command.stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            self.verb.to_owned(),
            "--set".to_owned(),
            format!("output_dir={}", self.output().display()),
        ];
        for (key, value) in &self.settings {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments
    }

    pub(crate) fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    pub(crate) fn start(&self) -> Child {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<Value> {
        lines(&self.output().join(name))
    }

    /// Waits until `count` steps are logged.
    pub(crate) fn wait_for_steps(&self, count: usize) {
        let start = Instant::now();
        while self.lines("metrics.jsonl").len() < count {
            assert!(
                start.elapsed() < Duration::from_mins(5),
                "no step {count} in five minutes"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn checkpoints(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.output().join("checkpoints"));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.output().join(name)).unwrap()
    }
}

/// The complete lines of a JSON lines file; none where it is not there.
pub(crate) fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let complete = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    complete
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
}

/// The run fails with this exit code and says all of these.
#[track_caller]
pub(crate) fn assert_says(output: &Output, code: i32, parts: &[&str]) {
    assert_code(output, code);
    let message = stderr(output);
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// The processes that `parent` has started.
pub(crate) fn children(parent: &Child) -> Vec<String> {
    let id = parent.id();
    let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn send(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    let status = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(status.success());
}

#[track_caller]
pub(crate) fn assert_same(a: &Run, b: &Run, names: &[&str]) {
    for name in names {
        assert!(a.read(name) == b.read(name), "{name} differs");
    }
}

/// Files of JSON lines agree: numbers to `tolerance` of themselves, or of 0.3 where they are smaller, all else exactly.
#[track_caller]
pub(crate) fn assert_close(run: &Run, expected: &Run, names: &[&str], tolerance: f64) {
    for name in names {
        assert_files_close(&run.output(), &expected.output(), name, tolerance);
    }
}

/// As [`assert_close`], of the files `name` in two folders.
#[track_caller]
pub(crate) fn assert_files_close(folder: &Path, expected: &Path, name: &str, tolerance: f64) {
    let [lines, expected] = [folder, expected].map(|folder| lines(&folder.join(name)));
    assert!(!expected.is_empty(), "{name} is empty");
    if let Some(difference) = difference(&lines.into(), &expected.into(), tolerance) {
        panic!("{name}, line {difference}");
    }
}

/// Where two values are not close, and both there.
fn difference(a: &Value, b: &Value, tolerance: f64) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => a
            .iter()
            .find_map(|(name, a)| Some(format!("{name}: {}", difference(a, &b[name], tolerance)?))),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| Some(format!("{i}: {}", difference(a, b, tolerance)?))),
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64()?, y.as_f64()?);
            ((x - y).abs() > tolerance * y.abs().max(0.3)).then(|| format!("{x} {y}"))
        }
        (a, b) => (a != b).then(|| format!("{a} {b}")),
    }
}
