//! The file in which a port's packed rings have their positions, opened when they are needed first.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::privileged::Privileged;
use crate::virtqueue::Positions;

/// The positions of one port. Its sessions come and go.
pub struct Keeper {
    port: String,
    path: PathBuf,
    rings: usize,
    privileged: Arc<Privileged>,
    positions: OnceLock<Arc<Positions>>,
}

impl Keeper {
    /// Those of a port's `rings` rings, in the file at `path` once there are any.
    pub fn new(port: &str, path: PathBuf, rings: usize, privileged: Arc<Privileged>) -> Self {
        Self {
            port: port.to_owned(),
            path,
            rings,
            privileged,
            positions: OnceLock::new(),
        }
    }

    /// The positions. Where there can be no file they are in the memory of this process, which covers front ends
    /// that reconnect: what is offered to a guest must not depend on it (`docs/architecture.md`, "Features").
    pub fn positions(&self) -> Arc<Positions> {
        Arc::clone(self.positions.get_or_init(|| {
            Arc::new(self.open().unwrap_or_else(|why| {
                log::warn!(
                    "port {}: {why}. Without that file a guest with packed rings has to be reset after a restart of \
                     evb. Let `state` of [daemon] name a directory of evb's own on a tmpfs",
                    self.port
                );
                Positions::in_process(self.rings)
            }))
        }))
    }

    fn open(&self) -> Result<Positions, String> {
        let file = self
            .privileged
            .keep(&self.path)
            .map_err(|e| e.to_string())?;
        let new = file.metadata().is_ok_and(|found| found.len() == 0);
        Positions::in_file(file, self.rings).map_err(|error| {
            if new {
                self.remove();
            }
            format!(
                "cannot keep positions of rings in {}: {error}",
                self.path.display()
            )
        })
    }

    /// The port is gone: removes the file if it remembers nothing.
    pub fn close(&self) {
        let Some(positions) = self.positions.get() else {
            return;
        };
        if positions.is_in_file() && positions.is_idle() {
            self.remove();
        }
    }

    fn remove(&self) {
        if let Err(error) = self.privileged.unlink(&self.path) {
            log::warn!("port {}: {error}", self.port);
        }
    }
}
