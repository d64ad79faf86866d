//! `doctor`: what this program and this machine have, what they lack, and what to do about it. It opens no GPU, asks no
//! network unless told to, and shows no secret.

use super::Outcome;
use super::output;
use crate::model::hub::HubSettings;
use crate::model::hub::web::shown;
use crate::util::console;
use crate::util::machine;
use crate::video::decoder_version;
use crate::video::missing_decoders;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Also ask the hub whether it answers (within two seconds)
    #[arg(long)]
    network: bool,
    /// Print {problems, findings: [{subject, verdict, found, advice}]}
    #[arg(long)]
    json: bool,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Worth knowing.
    Note,
    /// Something will not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do.
    advice: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn new(
        verdict: Verdict,
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            verdict,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    problems: usize,
    findings: Vec<Finding>,
}

/// Runs `doctor`; it fails where there is a problem.
pub(super) fn run(args: &DoctorArgs) -> Result<Outcome> {
    let mut findings = vec![program(), ffmpeg(), decoders()];
    findings.extend(gpus());
    findings.extend([cores(), memory()]);
    let hub = HubSettings::from_env();
    findings.push(room("disk here", Path::new(".")));
    findings.push(room("hub cache", &hub.cache));
    findings.push(hub_settings(&hub));
    if args.network {
        findings.push(network(&hub));
    }
    findings.push(terminal());
    let problems = findings
        .iter()
        .filter(|one| one.verdict == Verdict::Problem);
    let report = Report {
        problems: problems.count(),
        findings,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::lines(&in_words(&report)?)?;
    }
    Ok(if report.problems == 0 {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

fn in_words(report: &Report) -> Result<String> {
    let mut text = String::new();
    for one in &report.findings {
        let verdict = match one.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "problem",
        };
        write!(text, "{verdict:<8}{:<11}{}", one.subject, one.found)?;
        if let Some(advice) = &one.advice {
            write!(text, ": {advice}")?;
        }
        text.push('\n');
    }
    match report.problems {
        0 => text.push_str("no problem\n"),
        1 => text.push_str("1 problem\n"),
        count => writeln!(text, "{count} problems")?,
    }
    Ok(text)
}

fn program() -> Finding {
    let has = |is: bool, name: &str| format!("{} {name}", if is { "with" } else { "without" });
    let commit = option_env!("VIDEOTHINKER_COMMIT");
    let commit = commit.map_or_else(String::new, |commit| format!(" of {commit}"));
    let found = format!(
        "videothinker {}{commit}, {}, {}, FFmpeg {}",
        env!("CARGO_PKG_VERSION"),
        has(cfg!(feature = "cuda"), "CUDA"),
        has(cfg!(feature = "nccl"), "NCCL"),
        if cfg!(feature = "video-static") {
            "built in"
        } else {
            "of the system"
        }
    );
    if cfg!(debug_assertions) {
        let advice = "build it with --release: this one is many times slower";
        return Finding::new(Verdict::Note, "program", found + ", not optimised", advice);
    }
    Finding::ok("program", found)
}

fn ffmpeg() -> Finding {
    Finding::ok("FFmpeg", decoder_version())
}

fn decoders() -> Finding {
    const SUBJECT: &str = "decoders";
    let missing = missing_decoders();
    if missing.is_empty() {
        return Finding::ok(SUBJECT, "H.264, HEVC, VP9 and AV1");
    }
    let verdict = if missing.contains(&"H.264") {
        Verdict::Problem
    } else {
        Verdict::Note
    };
    let advice = "clips of this kind cannot be read: take an FFmpeg that has them, or convert the clips to H.264";
    Finding::new(
        verdict,
        SUBJECT,
        format!("without {}", missing.join(", ")),
        advice,
    )
}

/// The driver, CUDA's libraries and the cards.
fn gpus() -> Vec<Finding> {
    const BUILT: bool = cfg!(feature = "cuda");
    let cards = machine::cards();
    let driver = driver_version();
    let mut findings = Vec::new();
    match (&driver, BUILT) {
        (Some(version), _) => findings.push(Finding::ok("driver", format!("NVIDIA {version}"))),
        (None, true) => findings.push(Finding::new(
            Verdict::Problem,
            "driver",
            "no NVIDIA driver answers",
            "this program is built for GPUs: install the driver, give the container its GPUs (docker run --gpus all), or set \
             model.device = \"cpu\"",
        )),
        (None, false) => findings.push(Finding::ok("driver", "none, and none is needed without CUDA")),
    }
    if driver.is_some() || BUILT {
        findings.push(cuda_libraries(BUILT));
    }
    for (index, card) in cards.iter().enumerate() {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let found = format!(
            "{index}: {}, {:.1} of {:.1} GB free",
            card.name,
            gb(card.free),
            gb(card.memory)
        );
        findings.push(if !BUILT {
            let advice = "this program is built for CPUs: build it with --features cuda";
            Finding::new(Verdict::Note, "GPU", found, advice)
        } else if card.free < card.memory / 10 * 9 {
            let advice =
                "others use it too (nvidia-smi lists them); what they have is missing here";
            Finding::new(Verdict::Note, "GPU", found, advice)
        } else {
            Finding::ok("GPU", found)
        });
    }
    if cards.is_empty() && driver.is_none() && !BUILT {
        findings.push(Finding::new(
            Verdict::Note,
            "GPU",
            "none",
            "the miniature and small models run without; Qwen2.5-VL-3B needs one of NVIDIA's to be trained",
        ));
    }
    if cards.is_empty() && BUILT && driver.is_some() {
        findings.push(Finding::new(
            Verdict::Problem,
            "GPU",
            "nvidia-smi lists none",
            "it must list one: see `nvidia-smi`, and CUDA_VISIBLE_DEVICES",
        ));
    }
    findings
}

fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let mut words = text.lines().next()?.split_whitespace();
    words
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

fn cuda_libraries(needed: bool) -> Finding {
    const SUBJECT: &str = "CUDA";
    let files = library_files();
    let found = |name: &str| files.iter().find(|file| file.starts_with(name));
    let (there, missing): (Vec<_>, Vec<_>) = ["libcuda.so.1", "libcublas.so", "libcurand.so"]
        .into_iter()
        .partition(|name| found(name).is_some());
    if missing.is_empty() {
        let there = there
            .iter()
            .filter_map(|name| found(name))
            .map(String::as_str);
        return Finding::ok(SUBJECT, there.collect::<Vec<_>>().join(", "));
    }
    // A program that needs them and runs has found them, wherever they are.
    let (verdict, advice) = if needed {
        (
            Verdict::Note,
            "not in the usual folders; this program has found what it needs",
        )
    } else {
        (
            Verdict::Note,
            "a program with --features cuda needs them: CUDA's libraries, and LD_LIBRARY_PATH where they lie elsewhere",
        )
    };
    Finding::new(
        verdict,
        SUBJECT,
        format!("without {}", missing.join(", ")),
        advice,
    )
}

/// Names of the shared libraries that this program has loaded, and of those that the loader would find, by its folders.
fn library_files() -> Vec<String> {
    let loaded = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = loaded
        .lines()
        .filter_map(|line| line.rsplit_once('/').map(|(_, name)| name.to_owned()));
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib/wsl/lib",
        "/usr/local/cuda/lib64",
        "/usr/lib",
    ];
    let folders = std::env::split_paths(&own).chain(usual.map(PathBuf::from));
    let files = folders
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten();
    loaded
        .chain(files.filter_map(|file| file.ok()?.file_name().into_string().ok()))
        .collect()
}

fn cores() -> Finding {
    const SUBJECT: &str = "cores";
    let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = rayon::current_num_threads();
    let found = format!("{usable} for this process");
    if threads == usable {
        return Finding::ok(SUBJECT, found);
    }
    Finding::new(
        Verdict::Note,
        SUBJECT,
        format!("{found}, {threads} threads"),
        "RAYON_NUM_THREADS says so; unset it to use all cores",
    )
}

fn memory() -> Finding {
    const SUBJECT: &str = "memory";
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let Some(memory) = machine::memory() else {
        return Finding::ok(SUBJECT, "the system does not say");
    };
    let found = format!(
        "{:.1} of {:.1} GB free",
        gb(memory.available),
        gb(memory.total)
    );
    match machine::memory_limit().filter(|limit| *limit < memory.total) {
        Some(limit) => Finding::new(
            Verdict::Note,
            SUBJECT,
            format!("{found}, {:.1} GB allowed", gb(limit)),
            "a control group (container or job) sets the limit; ask it for more where that is too little",
        ),
        None => Finding::ok(SUBJECT, found),
    }
}

/// Free room below which a checkpoint of the miniature and its logs may not fit.
const LITTLE: u64 = 1 << 30;
/// Free room below which a checkpoint of the 3B model does not fit.
const SOME: u64 = 60 << 30;

fn room(subject: &'static str, path: &Path) -> Finding {
    let Some(bytes) = machine::free_bytes(path) else {
        return Finding::ok(
            subject,
            format!("{}: the system does not say", path.display()),
        );
    };
    let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = format!("{:.1} GB free in {}", bytes as f64 / 1e9, shown.display());
    match bytes {
        0..LITTLE => Finding::new(Verdict::Problem, subject, found, "make room"),
        LITTLE..SOME if subject == "disk here" => Finding::new(
            Verdict::Note,
            subject,
            found,
            "a checkpoint of the 3B model takes 53 GB: choose an output_dir with room",
        ),
        _ => Finding::ok(subject, found),
    }
}

fn hub_settings(hub: &HubSettings) -> Finding {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let names = ["HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"];
    let set = names.into_iter().filter(|name| is_set(name));
    let mut set: Vec<&str> = set.collect();
    if is_set("HF_TOKEN") {
        set.push("HF_TOKEN");
    }
    let set = if set.is_empty() {
        "no HF_… variable is set".to_owned()
    } else {
        format!("{} set", set.join(", "))
    };
    let token = if hub.token.is_some() {
        "a token"
    } else {
        "no token"
    };
    let found = format!("{set}, {token}");
    if hub.offline {
        let advice = "HF_HUB_OFFLINE: models are only taken from the cache";
        return Finding::new(Verdict::Note, "hub", found, advice);
    }
    Finding::ok("hub", found)
}

fn network(hub: &HubSettings) -> Finding {
    const PATIENCE: Duration = Duration::from_secs(2);
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .build();
    let agent: ureq::Agent = agent.into();
    let start = Instant::now();
    // No model and no token: only whether somebody answers.
    match agent.get(&hub.endpoint).call() {
        Ok(_) => {
            let time = console::duration(start.elapsed().as_secs_f64());
            Finding::ok(
                "network",
                format!("{} answers in {time}", shown(&hub.endpoint)),
            )
        }
        Err(error) => Finding::new(
            Verdict::Problem,
            "network",
            format!("{} does not answer ({error})", shown(&hub.endpoint)),
            "check the network and proxies, set HF_ENDPOINT, or bring models as folders and set HF_HUB_OFFLINE=1",
        ),
    }
}

fn terminal() -> Finding {
    let size = console::log_columns();
    let found = match (console::is_terminal(), size) {
        (true, Some(columns)) => format!("{columns} columns"),
        (true, None) => "of unknown width".to_owned(),
        (false, _) => "none: logs without a bar".to_owned(),
    };
    let colours = if console::has_colours() {
        "with"
    } else {
        "without"
    };
    Finding::ok("terminal", format!("{found}, {colours} colours"))
}
