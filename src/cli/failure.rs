//! Why a command did not do what it was asked to, and what to do about it.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde_json::{Value, json};

use crate::base::{Error, Kind};
use crate::config::Problems;

/// A refusal by the API, or a failure on the way there.
#[derive(Debug)]
pub(super) struct Failure {
    /// The status of the API's answer; 0 if it was never asked, or did not answer.
    pub status: u16,
    /// The API's problem document, or one of ours in the same form (RFC 9457).
    pub problem: Value,
    advice: Option<String>,
    usage: bool,
    interrupted: bool,
}

impl Failure {
    /// A failure on this side.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let problem = json!({ "code": code, "detail": detail.into() });
        Self { status: 0, problem, advice: None, usage: false, interrupted: false }
    }

    /// The command line asks for something that makes no sense.
    pub fn usage(detail: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new("usage", detail) }
    }

    /// The same, as the parser of the command line tells it: what is wrong, then the usage.
    pub fn wrong_use(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let (detail, usage) = text.split_once("\nUsage:").map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        let detail = detail.split("\nFor more information").next().unwrap_or_default();
        let detail = match error.kind() {
            // It begins with the description of all commands.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing",
            _ => detail,
        };
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let failure = Self::usage(words(detail.trim_start_matches("error: ")));
        match usage.and_then(|usage| usage.lines().next()) {
            Some(usage) => failure.advise(format!("Usage: {}", words(usage))),
            None => failure,
        }
    }

    /// Whoever waits has had enough. What is done is done, and what is half done has no final name.
    pub fn interrupted() -> Self {
        let advice = "Nothing was left half-written. The same command goes on, or begins anew.";
        Self { interrupted: true, ..Self::new("interrupted", "Interrupted.") }.advise(advice)
    }

    /// What the API answered.
    pub fn answer(status: u16, problem: Value) -> Self {
        Self { status, problem, advice: None, usage: false, interrupted: false }
    }

    pub fn configuration(problems: &Problems) -> Self {
        let mut failure = Self::new("invalid_configuration", "The configuration cannot be used.");
        let problems = problems.0.iter();
        failure.problem["errors"] = problems
            .map(|problem| json!({ "field": problem.key, "code": "invalid", "message": problem.message }))
            .collect();
        failure.advise("Correct the settings named above; `bulkhead config check` looks again.")
    }

    /// The part of the server that runs in this process could not begin or go on. Whoever types the
    /// command owns the data, so the cause is theirs to read.
    pub fn of_server(error: &Error) -> Self {
        let detail = match (error.kind(), error.cause()) {
            (Kind::Internal, Some(cause)) => cause,
            (_, Some(cause)) => format!("{} ({cause})", error.public_detail()),
            (_, None) => error.public_detail().to_owned(),
        };
        Self::new(error.code().name, detail)
    }

    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub const fn is_interruption(&self) -> bool {
        self.interrupted
    }

    pub fn code(&self) -> &str {
        self.problem["code"].as_str().unwrap_or("unknown")
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self { usage: true, .. } => ExitCode::from(2),
            // As a shell tells it of a program that SIGINT has ended.
            Self { interrupted: true, .. } => ExitCode::from(130),
            _ => ExitCode::FAILURE,
        }
    }

    /// For people, over several lines.
    pub fn text(&self) -> String {
        let detail = self.problem["detail"].as_str().unwrap_or("It did not work, and nothing says why.");
        let mut text =
            if self.usage { format!("error: {detail}\n") } else { format!("error: {detail} ({})\n", self.code()) };
        for error in self.problem["errors"].as_array().into_iter().flatten() {
            let part = |key: &str| error[key].as_str().unwrap_or("?");
            // Problems of the configuration continue the sentence that the name of the setting begins.
            let colon = if self.code() == "invalid_configuration" { "" } else { ":" };
            let _ = writeln!(text, "  {}{colon} {}", part("field"), part("message"));
        }
        if let Some(advice) = self.advice() {
            let _ = writeln!(text, "  {advice}");
        }
        // Where it is known what to do, the log has no more to say.
        let is_unexplained = self.status >= 500 && self.advice().is_none();
        if let (true, Some(request)) = (is_unexplained, self.problem["request_id"].as_str()) {
            let _ = writeln!(text, "  The server's log has more about request {request}.");
        }
        text
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let mut problem = self.problem.clone();
        if let (Some(advice), Some(problem)) = (self.advice(), problem.as_object_mut()) {
            problem.insert("advice".to_owned(), advice.into());
        }
        json!({ "error": problem })
    }

    fn advice(&self) -> Option<&str> {
        self.advice.as_deref().or_else(|| advice_for(self.code()))
    }
}

/// What to do about the refusals that one meets on a command line.
fn advice_for(code: &str) -> Option<&'static str> {
    Some(match code {
        "organization_not_found" => {
            "`bulkhead org list` shows the organizations there are; name one by id, slug or external id."
        }
        "organization_frozen" => "`bulkhead org freeze ORG --show` says why; `bulkhead org unfreeze ORG` releases it.",
        "freeze_file_damaged" => {
            "`bulkhead org recover ORG` puts back what the backup has; it can be frozen after that."
        }
        "freeze_not_in_backup" => {
            "Without --at and --txid the newest is taken. Where that is not it either: `bulkhead org unfreeze ORG` ends \
             the hold, and then any point can be put back."
        }
        "volume_unusable" => "The volumes there are: files.volumes in `bulkhead config show`.",
        "organization_suspended" => "`bulkhead org resume ORG` lets it back in.",
        "organization_unavailable" => {
            "`bulkhead fleet check` says what is wrong with its file; `bulkhead org recover ORG` puts back what the backup \
             has."
        }
        "organization_leaving" => "`bulkhead org push ORG --cancel` calls that off.",
        "organization_moved" => "What stays here of it goes with: bulkhead org erase ORG",
        "organization_readable" => "`bulkhead org restore ORG` goes back without losing what was revoked since.",
        "erasure_scheduled" => "`bulkhead org erase ORG --cancel` does that.",
        "erasure_not_found" => {
            "`bulkhead org erasures` lists them; one that is done is named by its id, since its names are gone."
        }
        "key_rotation_running" => {
            "`bulkhead keys status` says how far it is; a rotation of the master key that only waits is ended by \
             `bulkhead keys rotate-master --retire-now`."
        }
        "backup_unavailable" => "`bulkhead backup status` says since when and why; everybody is served meanwhile.",
        "backup_refused" => "`bulkhead doctor` says what the store answers; its settings are in the section [backup].",
        "backup_damaged" => {
            "`bulkhead org history ORG` shows which moments there are; `bulkhead backup fetch` gives the bytes as they are."
        }
        "backup_target_exists" => "Name another file with --to.",
        "backup_not_found" => "`bulkhead org history ORG` shows which moments there are.",
        "backup_not_configured" => "docs/BACKUPS.md says how; it takes effect with a restart.",
        "member_pending" => "`bulkhead member delete ORG MEMBER` takes an invitation back.",
        "member_not_found" => "`bulkhead member list ORG` shows the members there are.",
        "application_not_found" => "`bulkhead app list` shows the applications there are.",
        "api_key_not_found" => "`bulkhead key list` shows the keys there are; with --org those of an organization.",
        "slug_taken" => {
            "Choose another one. `bulkhead org show SLUG` says whose it is; names of what was erased are never given \
             again."
        }
        "external_id_taken" => "`bulkhead org show ID` shows whose it is.",
        "email_taken" => "`bulkhead member list ORG` shows that member.",
        "last_owner" => "Make another member an owner first.",
        "password_too_weak" => "Choose a longer one: a few unusual words do well.",
        "validation_failed" => "Correct what is named here, then run the command again; --help explains each option.",
        "unauthenticated" => {
            "Give a key of this deployment with --api-key or BULKHEAD_API_KEY; on its own machine, `bulkhead key \
             create` makes one."
        }
        "forbidden" => "Use a key of the deployment that has this scope; `bulkhead key create` makes one.",
        "organization_quarantined" => "`bulkhead fleet stats` says why; `bulkhead fleet release ORG` lets it back in.",
        "fleet_job_running" => "Wait until it has ended.",
        "rate_limited" | "overloaded" | "organization_busy" | "request_timeout" => "Wait a moment, then try again.",
        "organization_exists" => "Bring it in beside the one that is here with --new-id and --slug.",
        "import_secrets_locked" => "Give what it was sealed with: --passphrase-stdin, or --identity FILE.",
        "import_too_large" => "If it is to be that large, raise the bounds in the section [imports] and restart.",
        "import_format_unknown" => "Use a Bulkhead that is at least as new as the one that exported it.",
        "export_limit_reached" => "Exports expire after a day; they can be deleted with the API before.",
        "not_found" | "method_not_allowed" => "Is this a Bulkhead of the same version as this command?",
        _ => return None,
    })
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new("output_failed", format!("The answer could not be written: {error}."))
    }
}
