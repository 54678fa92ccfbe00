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
            // Whatever is at work in the background still may be ended at any moment, as by a power cut. But it must not
            // lose its clock before that: it would panic.
            std::mem::forget(runtime);
            code
        }
        Err(error) => cli::cannot_start(&error),
    }
}
