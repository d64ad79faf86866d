//! What the documents point at is there: linked files and headings, paths, names of the source, settings.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use videothinker::config::Config;

/// Folders of this repository whose paths a document names in full. What is below `data` and `runs` may not be there yet.
const FOLDERS: [&str; 8] = [
    ".ci", "benches", "configs", "dev", "docs", "fuzz", "scripts", "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter_map(|name| name.to_str().map(str::to_owned))
        .collect()
}

/// Every Markdown file, by its path from the root.
fn documents() -> Vec<String> {
    let folders = ["", "benches/results", "data", "dev", "docs", "tests/device"];
    let files = folders.iter().flat_map(|folder| {
        let names = names_in(&root().join(folder)).into_iter();
        names.map(move |name| {
            format!("{folder}/{name}")
                .trim_start_matches('/')
                .to_owned()
        })
    });
    files
        .filter(|file| Path::new(file).extension().is_some_and(|end| end == "md"))
        .collect()
}

/// Those that say what is so now, and the comments that do, by path; the others tell what was.
pub(crate) fn guides() -> Vec<(String, String)> {
    let mut documents = documents();
    documents.retain(|name| !["CHANGELOG.md", "dev/LOG.md"].contains(&name.as_str()));
    let texts = documents.into_iter().map(|name| {
        let text = read(&name);
        (name, text)
    });
    let mut guides: Vec<(String, String)> = texts.collect();
    for name in ["src/lib.rs", "tests/kernels/main.rs"] {
        // Other lines are left empty, so that those that stay keep their numbers.
        let comment = |line: &str| line.strip_prefix("//!").unwrap_or_default().to_owned();
        let text: Vec<String> = read(name).lines().map(comment).collect();
        guides.push((name.to_owned(), text.join("\n")));
    }
    guides
}

/// The lines outside blocks of code, or inside of them, with their numbers.
fn lines(text: &str, in_blocks: bool) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    let numbered = text.lines().enumerate();
    numbered.filter_map(move |(index, line)| {
        let is_fence = line.starts_with("```");
        inside ^= is_fence;
        (!is_fence && inside == in_blocks).then_some((index + 1, line))
    })
}

/// What stands in backquotes outside blocks of code, with the line in which it begins.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut found: Vec<(usize, String)> = Vec::new();
    for (number, line) in lines(text, false) {
        let mut pieces = line.split('`');
        let first = pieces.next().unwrap_or_default();
        if let Some((_, begun)) = found.last_mut().filter(|_| inside) {
            *begun += &format!(" {first}");
        }
        for piece in pieces {
            inside = !inside;
            if inside {
                found.push((number, piece.to_owned()));
            }
        }
    }
    found
}

/// The targets of `](target)`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let after = line.split("](").skip(1);
    after.filter_map(|rest| rest.split(')').next())
}

/// As GitHub names the headings of a file.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text, false).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.trim().to_lowercase())
    });
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    headings
        .map(|title| title.chars().filter(kept).collect::<String>())
        .map(|title| title.replace(' ', "-"))
        .collect()
}

/// Whether `path` is in the tree. `NAME` and `*` stand for any name: then at least one such file is.
fn exists(path: &str) -> bool {
    let pattern = path.trim_end_matches('/').replace("NAME", "*");
    let Some((before, after)) = pattern.split_once('*') else {
        return root().join(&pattern).exists();
    };
    let (folder, start) = before.rsplit_once('/').unwrap_or(("", before));
    names_in(&root().join(folder))
        .iter()
        .any(|name| name.starts_with(start) && name.ends_with(after))
}

/// The paths of this repository among the words of a piece of code.
fn paths(code: &str) -> impl Iterator<Item = &str> {
    let words = code.split(|c: char| c.is_whitespace() || "\"'=(),;".contains(c));
    words.filter(|word| {
        let first = word.split('/').next().unwrap_or_default();
        let is_ours = first == "src" || FOLDERS.contains(&first);
        is_ours && word.contains('/') && !word.contains(['$', '…', '{', '<'])
    })
}

/// `rl/loss.rs` is written for `src/rl/loss.rs` where modules are the subject.
fn is_below_src(code: &str) -> bool {
    let modules = names_in(&root().join("src"));
    let first = code.split('/').next().unwrap_or_default();
    let is_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_./".contains(c);
    // A build is put into a folder of that name.
    let is_made = code == "dist/videothinker";
    let is_module = modules.iter().any(|name| name == first);
    code.contains('/') && code.chars().all(is_path) && is_module && !is_made
}

fn assert_none(missing: &[String]) {
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    let mut missing = Vec::new();
    let mut found = 0;
    for document in documents() {
        let text = read(&document);
        for (number, line) in lines(&text, false) {
            for target in link_targets(line) {
                if target.contains("://") {
                    continue;
                }
                found += 1;
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let folder = Path::new(&document).parent().unwrap();
                let file: PathBuf = match path {
                    "" => root().join(&document),
                    path => root().join(folder).join(path),
                };
                if !file.exists() {
                    missing.push(format!("{document}:{number}: there is no file {target}"));
                } else if !anchor.is_empty()
                    && !anchors(&std::fs::read_to_string(file).unwrap()).contains(anchor)
                {
                    missing.push(format!(
                        "{document}:{number}: there is no heading for {target}"
                    ));
                }
            }
        }
    }
    assert!(found > 30, "{found}");
    assert_none(&missing);
}

/// Whether `path` is in the tree, or below `src/` there, with `.rs` or without.
fn is_there(path: &str) -> bool {
    exists(path) || exists(&format!("src/{path}")) || exists(&format!("src/{path}.rs"))
}

#[test]
fn every_path_in_the_guides_is_in_the_tree() {
    let mut missing = Vec::new();
    let mut found = 0;
    for (document, text) in guides() {
        let blocks = lines(&text, true).map(|(number, line)| (number, line.to_owned()));
        for (number, code) in quoted(&text).into_iter().chain(blocks) {
            let mut check = |path: &str, is_right: bool| {
                found += 1;
                if !is_right {
                    missing.push(format!("{document}:{number}: there is no {path}"));
                }
            };
            for path in paths(&code) {
                check(path, exists(path));
            }
            if is_below_src(&code) {
                check(&code, is_there(&code));
            }
        }
    }
    assert!(found > 150, "{found}");
    assert_none(&missing);
}

#[test]
fn every_place_in_the_glossary_is_in_the_tree() {
    let text = read("docs/glossary.md");
    let mut missing = Vec::new();
    let mut found = 0;
    for (number, line) in lines(&text, false) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let [_, _, place] = cells[..] else { continue };
        // A name or a setting in it stands in brackets.
        for (_, path) in quoted(place.split(" (").next().unwrap_or_default()) {
            found += 1;
            if !is_there(&path) {
                missing.push(format!("docs/glossary.md:{number}: there is no src/{path}"));
            }
        }
    }
    assert!(found > 60, "{found}");
    assert_none(&missing);
}

/// The words of every file that is compiled or run.
fn words_of_the_source() -> HashSet<String> {
    fn collect(folder: &Path, words: &mut HashSet<String>) {
        for name in names_in(folder) {
            let path = folder.join(&name);
            if path.is_dir() {
                collect(&path, words);
            } else if ["rs", "cu", "cuh", "hpp", "cpp", "sh", "py"]
                .iter()
                .any(|end| path.extension().is_some_and(|extension| extension == *end))
            {
                let text = std::fs::read_to_string(path).unwrap();
                let found = text.split(|c: char| !c.is_alphanumeric() && c != '_');
                words.extend(found.map(str::to_owned));
            }
        }
    }
    let mut words = HashSet::new();
    for folder in ["src", "tests", "scripts", "benches"] {
        collect(&root().join(folder), &mut words);
    }
    words
}

/// Whether it can only be a name of the source: `LossKind`, `token_weight`, `MicroBatch::split`.
fn is_name(code: &str) -> bool {
    // `cuda:N` is a value.
    let is_value = code.replace("::", "").contains(':');
    let is_mixed = code.contains(char::is_lowercase) && code.contains(char::is_uppercase);
    code.chars()
        .all(|c| c.is_ascii_alphanumeric() || "_:".contains(c))
        && !is_value
        && (is_mixed || code.contains('_') || code.contains("::"))
}

#[test]
fn every_name_and_setting_in_the_guides_is_one() {
    let words = words_of_the_source();
    let keys: BTreeSet<&str> = Config::settings()
        .iter()
        .map(|setting| setting.key.as_str())
        .collect();
    let is_table = |name: &str| keys.iter().any(|key| key.starts_with(&format!("{name}.")));
    let mut missing = Vec::new();
    let mut found = 0;
    for (document, text) in guides() {
        // READMEs, results and some pages tell of other programs too, which have names of their own.
        let is_ours = !document.ends_with("README.md")
            && !document.starts_with("benches")
            && !["docs/from-trl.md", "docs/differences.md"].contains(&document.as_str());
        for (number, code) in quoted(&text) {
            let key = code.split([' ', '=']).next().unwrap_or_default();
            let (table, rest) = key.split_once('.').unwrap_or_default();
            let is_file = ["rs", "json", "jsonl", "toml"].contains(&rest);
            let is_setting = is_table(table) && !is_file;
            let is_name = is_ours && is_name(&code);
            found += usize::from(is_setting) + usize::from(is_name);
            let last = code.rsplit("::").next().unwrap_or_default();
            if is_setting && !keys.contains(key) {
                missing.push(format!("{document}:{number}: there is no setting {key}"));
            } else if is_name && !words.contains(last) {
                missing.push(format!(
                    "{document}:{number}: there is no {code} in the source"
                ));
            }
        }
    }
    assert!(found > 150, "{found}");
    assert_none(&missing);
}
