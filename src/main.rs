//! From arguments to an exit code.

use std::process::ExitCode;

use bulkhead::{cli, crypto};

fn main() -> ExitCode {
    // Already installed is as good: what counts is that there is one, and one only.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Err(error) = crypto::self_test() {
        return cli::cannot_start(&format_args!("{error:?}"));
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(std::env::args_os()));
            // What is at work in the background still is ended with the runtime, where it waits next. If it waits for a
            // moment, it panics over a clock that is gone: that says nothing to anybody.
            std::panic::set_hook(Box::new(|_| ()));
            drop(runtime);
            code
        }
        Err(error) => cli::cannot_start(&error),
    }
}
