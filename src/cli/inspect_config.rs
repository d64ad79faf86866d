//! `inspect config`: the settings as the program sees them, all there are, and their schema for editors.

use super::ConfigArgs;
use super::output;
use crate::config::Config;
use crate::config::Setting;
use crate::config::Verb;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct InspectConfigArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Print every setting with its meaning, range and default, as a TOML file to start from
    #[arg(long, conflicts_with_all = ["schema", "config", "overrides"])]
    keys: bool,
    /// Print the JSON Schema of a config file, for editors
    #[arg(long, conflicts_with_all = ["config", "overrides"])]
    schema: bool,
}

pub(super) fn run(args: &InspectConfigArgs) -> Result<()> {
    if args.keys {
        return output::text(&template());
    }
    if args.schema {
        let schema = serde_json::to_string_pretty(&Config::json_schema())?;
        return output::text(&format!("{schema}\n"));
    }
    output::json(&args.settings.load(Verb::Inspect)?)
}

/// All settings in TOML, each commented out below what it means.
fn template() -> String {
    let mut text = String::new();
    let mut table = "";
    for setting in Config::settings() {
        let (of, name) = setting.key.split_once('.').unwrap_or(("", &setting.key));
        if of != table {
            table = of;
            text += &format!("[{table}]\n");
        }
        text += &entry(setting, name);
    }
    text
}

fn entry(setting: &Setting, name: &str) -> String {
    let mut text = wrapped("# ", &setting.doc);
    for choice in setting.choices() {
        text += &wrapped("#   ", &format!("\"{}\": {}", choice.word, choice.doc));
    }
    if setting.choices().is_empty() {
        let default = if setting.default.is_none() {
            "; absent by default"
        } else {
            ""
        };
        text += &format!("# ({}{default})\n", setting.value_in_brief());
    }
    let value = setting.default_in_toml();
    let value = value.or_else(|| setting.example_in_toml());
    text += &format!("#{name} = {}\n\n", value.unwrap_or_default());
    text
}

/// A text in lines of up to 100 characters, each behind `prefix`.
fn wrapped(prefix: &str, text: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                *line += " ";
                *line += word;
            }
            _ => lines.push(format!("{prefix}{word}")),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_config_whose_settings_only_need_to_be_wanted() {
        let template = template();
        let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ");
        let settings = template.lines().filter(|line| is_setting(line));
        assert_eq!(settings.count(), Config::settings().len());
        let load = |text: &str| toml::from_str::<Config>(text).unwrap();
        assert_eq!(load(&template), Config::default());
        let wanted = |line: &str| line[usize::from(is_setting(line))..].to_owned();
        let lines = template.lines().map(wanted);
        let config = load(&lines.collect::<Vec<_>>().join("\n"));
        assert_eq!(config.data.samples, Some(2000));
        assert_eq!(config.train.stop_after, Some(250));
        let wanted = config.flattened();
        assert_eq!(wanted.len(), Config::settings().len());
        for (key, value) in Config::default().flattened() {
            assert_eq!(wanted[&key], value, "{key}");
        }
        assert!(template.lines().all(|line| line.chars().count() <= 100));
        assert!(template.contains("#   \"repel\": Away from the bias model.\n"));
        assert!(template.contains("# (number, (0, ∞); absent by default)\n#token_cap = 5.0\n"));
    }
}
