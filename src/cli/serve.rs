//! `serve`: the service itself.

use std::path::Path;
use std::time::Duration;

use super::{Context, Failure, Outcome, Verdict, config, log};
use crate::app::App;
use crate::base::{Clock, Error, codes};

/// A command that works on the directory without a server is gone in a moment: it is waited for, 2 seconds.
const WAIT: Duration = Duration::from_millis(100);
const MOST_WAITS: u32 = 20;

pub(super) async fn serve(context: &Context) -> Outcome {
    let config = config::load(&context.options)?;
    log::of_server(&config.log);
    let data_dir = config.server.data_dir.clone();
    for _ in 0..MOST_WAITS {
        if !App::is_owned(&data_dir) {
            match App::start(config.clone(), Clock::system()).await {
                Ok(app) => {
                    app.serve().await.map_err(|error| Failure::of_server(&error))?;
                    return Ok(Verdict::Good);
                }
                // Somebody was faster.
                Err(error) if error.is(&codes::OVERLOADED) || App::is_owned(&data_dir) => {}
                Err(error) => {
                    return Err(Failure::of_server(&error).advise("`bulkhead doctor` looks for what is wrong."));
                }
            }
        }
        tokio::time::sleep(WAIT).await;
    }
    Err(in_use(&data_dir))
}

/// For the commands that need the directory for themselves.
pub(super) fn not_ours(data_dir: &Path, error: &Error) -> Failure {
    if App::is_owned(data_dir) { in_use(data_dir) } else { Failure::of_server(error) }
}

fn in_use(data_dir: &Path) -> Failure {
    let detail = format!("The data directory {} belongs to a process that is running.", data_dir.display());
    Failure::new("data_directory_in_use", detail).advise(
        "Stop that process, or give this one another directory (server.data_dir, BULKHEAD_SERVER_DATA_DIR): one \
         process owns one directory.",
    )
}
