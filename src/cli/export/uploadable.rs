//! Whether a folder can be uploaded as it is.

use super::curve::PICTURE;
use crate::cli::BadArgument;
use crate::config::TrainedWith;
use crate::model::export::COMPANIONS;
use crate::model::hub::publish::files_of;
use crate::model::private;
use crate::util::words::counted;
use anyhow::Result;
use std::path::Path;

/// Refuses to upload a folder as it is that holds more than a model, or whose files say what is nobody else's business.
pub(super) fn check(source: &Path) -> Result<()> {
    let is_a_models = |name: &str| {
        let ends = [".safetensors", ".safetensors.index.json"];
        let others = [
            "config.json",
            "README.md",
            ".gitattributes",
            PICTURE,
            TrainedWith::FILE,
        ];
        ends.iter().any(|end| name.ends_with(end))
            || others.contains(&name)
            || COMPANIONS.contains(&name)
    };
    let others: Vec<String> = files_of(source)?
        .into_iter()
        .map(|file| file.path)
        .filter(|path| !is_a_models(path))
        .collect();
    if let Some(first) = others.first() {
        return Err(BadArgument(format!(
            "{}: holds {} that a model does not need, such as {first}: give --out DIR, and what is written there is uploaded without \
             them",
            source.display(),
            counted(others.len(), "file")
        ))
        .into());
    }
    let Some((file, keys)) = private::found_in(source)? else {
        return Ok(());
    };
    Err(BadArgument(format!(
        "{}: holds what is not for others ({}): give --out DIR, and what is written there is uploaded without it",
        file.display(),
        keys.join(", ")
    ))
    .into())
}
