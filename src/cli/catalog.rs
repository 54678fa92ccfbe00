//! `catalog check`: whether the directory of organizations and their files agree.

use super::args::CatalogCommand;
use super::client::{Client, Intent};
use super::output::{cell, rows, table};
use super::{Context, Outcome, Verdict};

pub(super) async fn run(context: &Context, command: CatalogCommand) -> Outcome {
    match command {
        CatalogCommand::Check => context.with_client(Intent::Use, async |client| check(context, client).await).await,
    }
}

async fn check(context: &Context, client: &Client) -> Outcome {
    let found = client.get("/v1/catalog/check").await?;
    let ok = found["ok"].as_bool() == Some(true);
    context.output.answer(&found, || {
        let organizations = cell(&found, "organizations");
        if ok {
            return format!("The catalog agrees with the files of all {organizations} organizations.\n");
        }
        let problems = serde_json::json!({ "data": found["problems"] });
        let lines = rows(&problems, &["organization_id", "problem", "advice"]);
        let count = lines.len();
        let lines = table(&["ORGANIZATION", "PROBLEM", "WHAT TO DO"], &lines, "");
        format!("{lines}\n{count} problems in {organizations} organizations. The others are not affected.\n")
    })?;
    Ok(if ok { Verdict::Good } else { Verdict::Bad })
}
