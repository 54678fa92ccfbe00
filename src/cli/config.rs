//! `config check` and `config show`, and how every command finds its configuration.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::args::{ConfigCommand, Options};
use super::output::clean;
use super::{Context, Failure, Outcome, Verdict};
use crate::config::{Config, Problems};

/// What is read when nobody says otherwise.
const DEFAULT_FILE: &str = "bulkhead.toml";

pub(super) fn run(context: &Context, command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check => check(context),
        ConfigCommand::Show => show(context),
    }
}

fn check(context: &Context) -> Outcome {
    let file = file(&context.options);
    let problems = match read(&context.options) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0,
    };
    if !problems.is_empty() && !context.output.json {
        // Not an answer but a complaint, so that it is seen even when answers are thrown away.
        return Err(Failure::configuration(&Problems(problems)));
    }
    let listed: Vec<Value> =
        problems.iter().map(|problem| json!({ "key": problem.key, "message": problem.message })).collect();
    let document = json!({
        "object": "config_check",
        "ok": problems.is_empty(),
        "file": file.as_ref().map(|file| file.display().to_string()),
        "problems": listed,
    });
    context.output.answer(&document, || match &file {
        Some(file) => {
            format!("The configuration is sound ({}, and the environment).\n", clean(&file.display().to_string()))
        }
        None => "The configuration is sound (defaults, and the environment; there is no file).\n".to_owned(),
    })?;
    Ok(if problems.is_empty() { Verdict::Good } else { Verdict::Bad })
}

fn show(context: &Context) -> Outcome {
    let settings = load(&context.options)?.show();
    let unwritable = |error: &dyn std::fmt::Display| Failure::new("unwritable_configuration", error.to_string());
    let document: Value = serde_json::to_value(&settings).map_err(|error| unwritable(&error))?;
    let text = toml::to_string(&settings).map_err(|error| unwritable(&error))?;
    context.output.answer(&document, || text)?;
    Ok(Verdict::Good)
}

/// The configuration of this machine's deployment.
pub(super) fn load(options: &Options) -> Result<Config, Failure> {
    read(options).map_err(|problems| Failure::configuration(&problems))
}

pub(super) fn read(options: &Options) -> Result<Config, Problems> {
    // Variables that are not text are nobody's settings.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(file(options).as_deref(), env)
}

fn file(options: &Options) -> Option<PathBuf> {
    let default = || Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE));
    options.config.clone().or_else(default)
}
