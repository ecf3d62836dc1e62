//! Ctrl-C and SIGTERM: whatever runs looks here now and then, and cleans up after itself.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::error::{BenchError, system};

static WANTED: AtomicBool = AtomicBool::new(false);

/// Whether the user wants it to end.
pub fn wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// The same as an error.
pub fn check() -> Result<(), BenchError> {
    if wanted() {
        Err(BenchError::Interrupted)
    } else {
        Ok(())
    }
}

/// Listens for both signals, for as long as the process lives.
pub fn listen() -> Result<(), BenchError> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(system("listen for signals"))?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).map_err(system("listen for signals"));
        (
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        WANTED.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new()
        .name("evb-signals".to_owned())
        .spawn(wait)
        .map_err(system("start a thread"))?;
    Ok(())
}
