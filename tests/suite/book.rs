//! The README is short, and the folder `docs` is a book: every page is in its list, and has headings that GitHub and mdBook
//! name alike.

use std::collections::BTreeSet;
use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The pages in the book's list.
fn listed() -> Vec<String> {
    let summary = read("docs/SUMMARY.md");
    let targets = summary.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

#[test]
fn the_readme_is_short_and_begins_with_what_to_type() {
    let readme = read("README.md");
    assert!(readme.len() <= 12_288, "{} bytes", readme.len());
    let (before, _) = readme.split_once("\n```").unwrap();
    let words = before.split_whitespace().count();
    assert!(words <= 120, "{words} words before the first command");
}

#[test]
fn every_page_is_in_the_list_and_every_entry_is_a_page() {
    let listed = listed();
    let names: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(names.len(), listed.len(), "a page is listed twice");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let files = std::fs::read_dir(folder).unwrap();
    let pages = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let is_page = |name: &String| {
        Path::new(name).extension().is_some_and(|end| end == "md") && name != "SUMMARY.md"
    };
    let pages: BTreeSet<String> = pages.filter(is_page).collect();
    assert_eq!(pages, names);
    assert!(pages.len() > 15, "{pages:?}");
}

#[test]
fn headings_are_named_alike_by_github_and_mdbook() {
    for page in listed() {
        let text = read(&format!("docs/{page}"));
        assert!(text.starts_with("# "), "{page}: a title comes first");
        let mut seen = BTreeSet::new();
        let mut in_block = false;
        for line in text.lines() {
            in_block ^= line.starts_with("```");
            let title = line.trim_start_matches('#');
            if in_block || title.len() == line.len() {
                continue;
            }
            // GitHub makes every letter small, mdBook those of ASCII; each numbers repeated names in its own way.
            let is_alike = title.to_lowercase() == title.to_ascii_lowercase();
            assert!(is_alike, "{page}: {title}");
            assert!(seen.insert(title.to_owned()), "{page}: twice {title}");
        }
    }
}

/// The text of every string of the source, more or less: lines that go on are joined, signs written as they print.
fn source() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let file = std::fs::read_to_string(&path).unwrap();
                for line in file.lines() {
                    match line.strip_suffix('\\') {
                        Some(begun) => *text += begun.trim_start(),
                        None => *text += &format!("{}\n", line.trim_start()),
                    }
                }
            }
        }
    }
    let mut text = String::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut text,
    );
    text.replace("\\\"", "\"")
        .replace("{{", "{")
        .replace("}}", "}")
}

#[test]
fn the_messages_that_troubleshooting_explains_are_those_of_the_program() {
    let source = source();
    let page = read("docs/troubleshooting.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut found = 0;
    for cell in cells.filter_map(|rest| rest.split(" | ").next()) {
        let message = cell.trim_matches(['`', ' ']);
        // What is different each time stands as …, and is not looked for.
        for piece in message.split('…').map(str::trim) {
            found += 1;
            assert!(source.contains(piece), "nothing says {piece:?}: {message}");
        }
    }
    assert!(found > 50, "{found}");
}

#[test]
fn the_readme_asks_in_transformers_as_a_model_card_does() {
    let (readme, code) = (read("README.md"), read("src/cli/export/transformers.py"));
    assert!(
        readme.contains(&format!("```python\n{code}```")),
        "README.md holds another snippet than src/cli/export/transformers.py"
    );
}
