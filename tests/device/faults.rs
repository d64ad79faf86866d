//! Faults planted on purpose, one of each kind, in a program of its own (`faults.cpp`): the software device sees each of
//! them, and nothing in the same things done rightly. What it sees is a table under `benches/results/`.

use crate::run::stderr;
use crate::software::{device_folder, linked};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const TABLE: &str = "benches/results/faults.md";

fn faults(argument: &str) -> Command {
    let mut command = linked(device_folder().join("faults"));
    command.arg(argument);
    command
}

/// A case as the program lists it.
struct Case<'a> {
    name: &'a str,
    /// A variable of the device, or `-`.
    environment: &'a str,
    /// What must be said; nothing where all is right.
    seen: &'a str,
    what: &'a str,
}

impl<'a> Case<'a> {
    fn of(line: &'a str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, environment, seen, what] = fields[..] else {
            panic!("{line}");
        };
        Self {
            name,
            environment,
            seen,
            what,
        }
    }

    #[track_caller]
    fn check(&self) {
        let mut command = faults(self.name);
        command.envs(self.environment.split_once('='));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        let name = self.name;
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
        let found = said.contains("HAZARD") || said.contains("refused");
        assert_eq!(found, !self.seen.is_empty(), "{name}: {said}");
        assert!(said.contains(self.seen), "{name}: {said}");
    }
}

#[test]
fn each_planted_fault_is_seen() {
    let list = faults("list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let cases: Vec<Case> = list.lines().map(Case::of).collect();
    assert!(cases.len() > 25 && cases[0].name == "correct", "{list}");
    let mut table = String::from(
        "# Faults planted and found\n\nEach is a case of `tests/device/faults.cpp`, run on the software device; the first does the same things rightly. \
         `scripts/test_cuda.sh faults` runs them all and compares this table, `UPDATE_RESULTS=1` before it writes it.\n\n\
         | planted | where it is looked for | what the device says |\n| --- | --- | --- |\n",
    );
    for case in cases {
        case.check();
        let place = match case.environment {
            "-" => "always".to_owned(),
            variable => format!("`{variable}`"),
        };
        let seen = match case.seen {
            "" => "nothing".to_owned(),
            seen => format!("“{seen}”"),
        };
        writeln!(table, "| {} | {place} | {seen} |", case.what).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    if std::env::var_os("UPDATE_RESULTS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let update = "UPDATE_RESULTS=1 scripts/test_cuda.sh faults";
    assert!(kept == table, "{TABLE} is out of date: {update}");
}
