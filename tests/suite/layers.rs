//! Modules import only to the left: `docs/architecture.md` states the order, this test reads it there and checks every file.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The modules from left to right, from the one line there that starts with `util → `.
fn import_order() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let line = page
        .lines()
        .find(|line| line.starts_with("`util → "))
        .expect("docs/architecture.md states the import order");
    line.trim_matches('`')
        .split(" → ")
        .map(str::to_owned)
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The modules that a file's text names after `crate::`, comments and doc links left out.
fn imports(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    code.match_indices("crate::")
        .filter(|(at, _)| !code[..*at].ends_with('$'))
        .map(|(at, found)| {
            code[at + found.len()..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

/// What is wrong with a file of `module`, if anything.
fn violation(module: &str, text: &str, rank: &BTreeMap<String, usize>) -> Option<String> {
    if text.contains("use crate::{") {
        return Some("`use crate::{…}`: one module per use line".into());
    }
    let own = rank.get(module)?;
    imports(text)
        .into_iter()
        .find_map(|import| match rank.get(&import) {
            Some(other) if other <= own => None,
            Some(_) => Some(format!("{module} imports {import}, which is to its right")),
            None => Some(format!(
                "{module} imports `{import}`, which is not in the order"
            )),
        })
}

#[test]
fn modules_import_only_to_their_left() {
    let order = import_order();
    let rank: BTreeMap<String, usize> = order
        .iter()
        .enumerate()
        .map(|(place, name)| (name.clone(), place))
        .collect();
    let source = root().join("src");
    let mut problems = Vec::new();
    let mut checked = 0;
    for path in rust_files(&source) {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.components().next().unwrap().as_os_str();
        let module = Path::new(first).file_stem().unwrap().to_str().unwrap();
        if ["lib", "main"].contains(&module) {
            continue;
        }
        assert!(
            rank.contains_key(module),
            "`{module}` is missing in the import order of docs/architecture.md"
        );
        checked += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        if let Some(problem) = violation(module, &text, &rank) {
            problems.push(format!("{}: {problem}", inside.display()));
        }
    }
    assert!(checked > order.len(), "only {checked} files found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_check_sees_a_wrong_import() {
    let order = ["config", "data", "video"];
    let rank = order
        .iter()
        .enumerate()
        .map(|(place, name)| ((*name).to_owned(), place))
        .collect();
    assert_eq!(violation("data", "use crate::config::Config;", &rank), None);
    assert_eq!(violation("data", "// as crate::video does", &rank), None);
    for wrong in [
        "use crate::video::Clip;",
        "crate::video::load()",
        "use crate::{config::Config};",
        "use crate::unknown;",
    ] {
        assert!(violation("data", wrong, &rank).is_some(), "{wrong}");
    }
}
