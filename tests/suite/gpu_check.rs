//! `scripts/gpu_check.sh`: what is measured can be read whenever the check is killed, and nothing is left behind.

mod script;

use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Parts in their order; those that are begun beside others come when they are done.
const PARTS: [&str; 19] = [
    "start",
    "model",
    "world",
    "python",
    "rates",
    "kernels",
    "parity_tiny",
    "parity_mini",
    "decode",
    "train_full",
    "transformers",
    "cdpo_full",
    "decode_kernels",
    "train_kernels",
    "memcheck",
    "racecheck",
    "train_compact",
    "miniature",
    "train_host",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder for one check, and programs that stand in for ours and NVIDIA's.
struct Check {
    folder: tempfile::TempDir,
    mark: String,
}

impl Check {
    fn new(name: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            mark: format!("GPU_CHECK_TEST={name}.{}", std::process::id()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The check with stand-ins in a process group of its own; each of their calls takes `seconds`.
    fn start(&self, seconds: &str, args: &[&str]) -> Child {
        self.start_with(seconds, args, &[])
    }

    fn start_with(&self, seconds: &str, args: &[&str], variables: &[(&str, &str)]) -> Child {
        let programs = root().join("tests/suite/gpu_check");
        let path = format!(
            "{0}/program:{0}/tools:{1}",
            programs.display(),
            std::env::var("PATH").unwrap()
        );
        let (key, value) = self.mark.split_once('=').unwrap();
        self.command(&programs.join("program/videothinker"), "--small")
            .args(args)
            .env("PATH", path)
            .envs(variables.iter().copied())
            .env("PROGRAM_SECONDS", seconds)
            .env("PROGRAM_NOTES", self.path("notes"))
            .env(key, value)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn command(&self, binary: &Path, mode: &str) -> Command {
        script::check(Command::new("bash"), binary, mode, self.folder.path())
    }

    fn results(&self) -> BTreeMap<String, Value> {
        script::results(self.folder.path())
    }

    /// Processes of this check.
    fn processes(&self) -> Vec<String> {
        let marked = |entry: std::fs::DirEntry| {
            let path = entry.path();
            let environment = std::fs::read(path.join("environ")).ok()?;
            let mut variables = environment.split(|&byte| byte == 0);
            variables.any(|one| one == self.mark.as_bytes()).then(|| {
                let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).replace('\0', " ")
            })
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(marked)
            .collect()
    }
}

/// Parts that were noted as done by `seconds` since 1970, under the names in the results.
fn noted(check: &Check, seconds: f64) -> Vec<&'static str> {
    let notes = std::fs::read_to_string(check.path("notes")).unwrap_or_default();
    let done = notes.lines().filter_map(|line| {
        let (time, name) = line.split_once(' ')?;
        let time: f64 = time.replace(',', ".").parse().ok()?;
        (time <= seconds).then_some(name)
    });
    done.filter_map(|name| match name {
        "rates" => Some("rates"),
        "kernels" => Some("kernels"),
        "parity" => Some("parity_tiny"),
        "decode" => Some("decode"),
        "learning" => Some("train_full"),
        "cdpo" => Some("cdpo_full"),
        _ => None,
    })
    .collect()
}

fn since_1970() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// Kills a check in one of four ways after `delay` and looks at what it leaves.
fn kill_after(number: u64, delay: Duration) {
    let check = Check::new(&format!("kill{number}"));
    let mut child = check.start("0.3", &[]);
    std::thread::sleep(delay);
    let (signal, whole_group) = [
        ("KILL", true),
        ("KILL", false),
        ("TERM", true),
        ("TERM", false),
    ][number as usize % 4];
    let target = if whole_group {
        format!("-{}", child.id())
    } else {
        child.id().to_string()
    };
    let killed = since_1970();
    let sent = Command::new("bash")
        .args(["-c", &format!("kill -{signal} -- {target}")])
        .status()
        .unwrap();
    assert!(
        sent.success(),
        "the check had ended before it was killed: {:?}",
        check.results().keys()
    );
    child.wait().unwrap();

    let patience = Instant::now() + Duration::from_secs(30);
    while !check.processes().is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(50));
    }
    let case = format!("{signal}, whole group: {whole_group}, after {delay:?}");
    assert_eq!(check.processes(), Vec::<String>::new(), "{case}");
    let scratch = std::fs::read_dir(check.path("scratch"));
    assert_eq!(scratch.map_or(0, Iterator::count), 0, "{case}");

    let results = check.results();
    for part in noted(&check, killed - 3.0) {
        assert_eq!(
            results.get(part).map(|line| &line["exit_code"]),
            Some(&0.into()),
            "{case}: {part}"
        );
    }
    if signal == "TERM" && results.contains_key("rates") {
        assert!(check.path("out/table.txt").exists(), "{case}");
    }
    let files = std::fs::read_dir(check.path("out")).map_or(0, Iterator::count);
    assert!(files <= 8, "{case}: {files} files");
}

#[test]
fn a_check_that_is_killed_leaves_readable_results_and_no_process() {
    // A sequence of random numbers, the same every time.
    let mut state = 14u64;
    let delays: Vec<Duration> = (0..20)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            Duration::from_millis(200 + (state >> 33) % 5000)
        })
        .collect();
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let delays = &delays;
            scope.spawn(move || {
                for number in (lane..20).step_by(4) {
                    // Every lane kills in every way.
                    kill_after((number + number / 4) as u64, delays[number]);
                }
            });
        }
    });
}

/// Training takes TERM for a request to save: a part that goes on after it is killed.
#[test]
fn a_part_that_does_not_heed_its_limit_is_killed() {
    let script = r#". scripts/lib/gpu_check_run.sh; ends=$((SECONDS + 1)); limited bash -c 'trap "" TERM; while :; do sleep 1; done'"#;
    let start = Instant::now();
    let status = Command::new("bash")
        .args(["-c", script])
        .current_dir(root())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(137));
    assert!(start.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_check_runs_every_part_and_reads_the_tools_results() {
    let check = Check::new("whole");
    let status = check.start("0", &[]).wait().unwrap();
    let results = check.results();
    assert!(status.success(), "{results:#?}");
    for part in PARTS {
        assert_eq!(results[part]["exit_code"], 0, "{part}");
    }
    assert_eq!(results.len(), PARTS.len());
    let kernels = &results["decode_kernels"]["result"];
    assert_eq!(kernels["launches"], 3);
    assert_eq!(
        kernels["kernels"][0]["kernel"],
        "void gemm<float, 128, 64>(Params<float, 2>) (8, 4, 1)"
    );
    assert_eq!(kernels["kernels"][0]["total_us"], 1234.0);
    assert_eq!(kernels["kernels"][1]["mean_us"], 3.0);
    assert_eq!(
        results["memcheck"]["result"]["summary"],
        "ERROR SUMMARY: 0 errors"
    );
    let layer = std::fs::read_to_string(check.path("notes.layer")).unwrap();
    let layer: Value = serde_json::from_str(&layer).unwrap();
    assert_eq!(layer["num_hidden_layers"], 1);
    assert_eq!(layer["vision_config"]["depth"], 2);
    assert_eq!(
        layer["vision_config"]["fullatt_block_indexes"],
        serde_json::json!([1])
    );

    let table = std::fs::read_to_string(check.path("out/table.txt")).unwrap();
    for (row, words) in [
        (
            "decoding, 4 rows, by a CUDA graph",
            "900 tokens/s           1000    90.0 %",
        ),
        ("  steps replayed, one by one", "15, 1"),
        (
            "  memory / estimate",
            "61 GB                   62    98.4 %",
        ),
        (
            "log-probabilities, ours against transformers",
            "mean 0.02, max 0.1",
        ),
        ("racecheck", "0 hazards displayed"),
    ] {
        let found = table
            .lines()
            .any(|line| line.starts_with(row) && line.contains(words));
        assert!(found, "no `{row} {words}` in\n{table}");
    }
    assert!(!table.contains("FAILED"), "{table}");
}

/// As without rights to the card's counters, or in a sandbox that the tools do not know: that is no fault of the card.
#[test]
fn tools_that_do_not_work_here_are_left_out() {
    let check = Check::new("tools");
    let status = check.start_with("0", &[], &[("TOOLS_DO_NOT_WORK", "1")]);
    assert!(status.wait_with_output().unwrap().status.success());
    let results = check.results();
    for (part, said) in [
        ("decode_kernels", "ncu does not work here: ERR_NVGPUCTRPERM"),
        ("train_kernels", "ncu does not work here: ERR_NVGPUCTRPERM"),
        ("memcheck", "compute-sanitizer does not work here: "),
        ("racecheck", "Device not supported"),
    ] {
        let reason = results[part]["left_out"].as_str().unwrap();
        assert!(reason.contains(said), "{part}: {reason}");
    }
}

#[test]
fn parts_that_do_not_fit_are_left_out_with_the_reason() {
    let check = Check::new("short");
    let status = check.start("0", &["--seconds", "50"]).wait().unwrap();
    let results = check.results();
    assert!(status.success(), "{results:#?}");
    let reason = results["transformers"]["left_out"].as_str().unwrap();
    assert!(
        reason.starts_with("it takes about 70 s, and ") && reason.ends_with(" of 50 are left"),
        "{reason}"
    );
    assert_eq!(results["rates"]["exit_code"], 0);
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, said) in [
        (
            &["--seconds", "60s"][..],
            "--seconds 60s: expected a number",
        ),
        (&["--seconds", "08"], "--seconds 08: expected a number"),
        (&["--seconds", "0"], "--seconds 0: expected a number"),
        (&["--patience", "-1"], "--patience -1: expected a number"),
        (&["--out"], "--out needs a value"),
        (&["--bogus"], "--bogus: no such option"),
        (&["--binary", "/"], "/: no such program"),
    ] {
        let mut command = Command::new("bash");
        command.arg("scripts/gpu_check.sh").args(arguments);
        let output = command.current_dir(root()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_device_that_does_not_work_stops_the_check_at_once() {
    let check = Check::new("broken");
    let program = check.path("program");
    let script = "#!/bin/sh\ncase $1 in --version) echo broken ;; *) echo 'no device \"here\"' >&2; exit 1 ;; esac\n";
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let output = check.command(&program, "--cpu").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let results = check.results();
    assert_eq!(results["rates"]["reason"], "no device 'here'");
    let reason = results["kernels"]["left_out"].as_str().unwrap();
    assert!(reason.contains("the device does not work"), "{reason}");
}

/// The real program on the CPU, all parts that a CPU has.
#[test]
fn the_program_passes_on_a_cpu() {
    let check = Check::new("cpu");
    let binary = crate::program();
    let output = check
        .command(Path::new(binary.get_program()), "--cpu")
        .args(["--patience", "10", "--seconds", "3000"])
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let results = check.results();
    let failed = results.values().filter(|line| line["reason"].is_string());
    let failed: Vec<&Value> = failed.collect();
    assert!(output.status.success(), "{failed:?}\n{errors}");
    for part in [
        "rates",
        "kernels",
        "parity_tiny",
        "parity_mini",
        "decode",
        "train_full",
        "cdpo_full",
        "miniature",
        "train_host",
    ] {
        assert_eq!(results[part]["exit_code"], 0, "{part}");
    }
    for part in ["decode_kernels", "racecheck"] {
        assert_eq!(results[part]["left_out"], "a CPU has no kernels to watch");
    }
    assert!(
        results["cdpo_full"]["result"]["memory/peak_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
}
