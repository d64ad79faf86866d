//! What other trainers call a setting (TRL, ms-swift, verl and EasyR1, the authors' script), and what it is here.

use names::LORA;
use names::NAMES;
use names::SHARDING;
use names::VALIDATION;
use names::VLLM;

mod names;

/// What a name of another program means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// This setting, and what is different about it, if anything.
    Setting(&'static str, &'static str),
    /// No setting: the words say what there is instead.
    Nothing(&'static str),
}

use Meaning::Nothing;
use Meaning::Setting;

/// The same in a sentence.
pub(crate) fn in_words(name: &str) -> Option<String> {
    Some(match meaning(name)? {
        Setting(key, "") => format!("here it is `{key}`"),
        Setting(key, note) => format!("here it is `{key}` ({note})"),
        Nothing(words) => words.to_owned(),
    })
}

/// What another trainer's `name`, dotted or not, in its file's spelling or a flag's, means here.
fn meaning(name: &str) -> Option<Meaning> {
    let name = name.to_lowercase().replace('-', "_");
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_named = |known: &str| {
        if known.contains('.') {
            name == known || name.ends_with(&format!(".{known}"))
        } else {
            last == known
        }
    };
    let is_of_validation = name
        .split('.')
        .any(|part| part == "val_kwargs" || part == "val_override_config");
    if is_of_validation {
        return Some(Nothing(VALIDATION));
    }
    let found = NAMES
        .iter()
        .find(|(known, _)| known.split_whitespace().any(is_named));
    let of_family = || {
        let parts = || name.split('.');
        if parts().any(|part| part.starts_with("vllm")) {
            Some(Nothing(VLLM))
        } else if parts().any(|part| part == "lora" || part == "peft") {
            Some(Nothing(LORA))
        } else if parts().any(|part| part == "deepspeed" || part == "fsdp") {
            Some(Nothing(SHARDING))
        } else {
            None
        }
    };
    found.map(|(_, meaning)| *meaning).or_else(of_family)
}

#[cfg(test)]
mod tests {
    use super::names::COEFFICIENT;
    use super::names::GROUP;
    use super::names::LEARNING_RATE;
    use super::*;
    use crate::config::Config;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_named_here_is_a_setting_and_nothing_is_named_twice() {
        let keys: BTreeSet<&str> = Config::settings().iter().map(|s| s.key.as_str()).collect();
        let tables: BTreeSet<&str> = keys
            .iter()
            .filter_map(|key| Some(key.split_once('.')?.0))
            .collect();
        let mut seen = BTreeSet::new();
        for (names, meaning) in NAMES {
            for name in names.split_whitespace() {
                assert!(seen.insert(name), "{name} twice");
                assert_eq!(name, name.to_lowercase().replace('-', "_"));
            }
            let words = match meaning {
                Setting(key, note) => {
                    assert!(keys.contains(key), "{key}");
                    *note
                }
                Nothing(words) => words,
            };
            // Dotted words of the notes are settings too.
            for word in words.split([' ', ';', ',', ':', '(', ')']) {
                let table = word.split_once('.').map(|(table, _)| table);
                if table.is_some_and(|table| tables.contains(table)) {
                    assert!(keys.contains(word), "{word} in: {words}");
                }
            }
        }
    }

    #[test]
    fn spellings_of_files_and_flags_are_one() {
        assert_eq!(meaning("kl.beta"), Some(COEFFICIENT));
        assert_eq!(meaning("actor_rollout_ref.rollout.n"), Some(GROUP));
        assert_eq!(meaning("sampling.n"), Some(GROUP));
        assert_eq!(meaning("m"), None);
        let of_validation = Some(Nothing(VALIDATION));
        assert_eq!(
            meaning("actor_rollout_ref.rollout.val_kwargs.n"),
            of_validation
        );
        assert_eq!(meaning("num-generations"), Some(GROUP));
        assert_eq!(
            meaning("VIDEO_MAX_PIXELS"),
            Some(Setting("video.max_pixels", "of a frame"))
        );
        assert_eq!(meaning("vllm_mode"), Some(Nothing(VLLM)));
        assert_eq!(meaning("lora.bias"), Some(Nothing(LORA)));
        assert_eq!(meaning("optimizer.lr"), Some(LEARNING_RATE));
    }
}
