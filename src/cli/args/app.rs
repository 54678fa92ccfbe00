//! `app`.

use clap::{Args, Subcommand, ValueEnum};

use super::Limit;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AppCommand {
    /// Register an application, for all organizations
    Create(CreateApp),
    /// List applications, newest first
    List(Limit),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateApp {
    #[arg(long)]
    pub name: String,
    /// An app that cannot keep a secret: in a browser, on a phone
    #[arg(long)]
    pub public: bool,
    /// Where people come back to after signing in; may be repeated
    #[arg(long = "redirect-uri", value_name = "URI", required = true)]
    pub redirect_uris: Vec<String>,
    /// Where people come back to after signing out; may be repeated
    #[arg(long = "post-logout-redirect-uri", value_name = "URI")]
    pub post_logout_redirect_uris: Vec<String>,
    /// How its ID tokens are signed [default: RS256]
    #[arg(long, value_name = "ALG")]
    pub alg: Option<Algorithm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Algorithm {
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "ES256")]
    Es256,
}

impl Algorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}
