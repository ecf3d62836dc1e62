//! Devices that whoever started the daemon has opened for it.
//!
//! Their descriptors stay open for as long as the daemon runs, and each use has duplicates, so that a port
//! that a reload removes can be there again after the next.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::thread;

use crate::sys::handed;
use crate::uplink::{self, HandedSpec, LinkError, Opened};

/// Descriptors of devices, by the numbers that they had at start.
#[derive(Debug, Default)]
pub struct Handed(BTreeMap<RawFd, OwnedFd>);

impl Handed {
    /// Takes over what `specs` name, before the process opens much else.
    ///
    /// # Errors
    ///
    /// The first descriptor that is not there.
    pub fn take<'a>(specs: impl IntoIterator<Item = &'a HandedSpec>) -> Result<Self, LinkError> {
        let mut taken = BTreeMap::new();
        for number in specs.into_iter().flat_map(|spec| &spec.descriptors) {
            let descriptor = handed::take(*number).map_err(|_| LinkError::Handed {
                descriptor: *number,
                wrong: "is not open; whoever starts evb has to leave it open for it".to_owned(),
            })?;
            taken.insert(*number, descriptor);
        }
        Ok(Self(taken))
    }

    /// Duplicates of the descriptors that `spec` names.
    pub(super) fn queues(&self, spec: &HandedSpec) -> Result<Vec<OwnedFd>, LinkError> {
        let numbers = spec.descriptors.iter();
        let all = numbers.map(|number| {
            let descriptor = self.0.get(number).ok_or_else(|| LinkError::Handed {
                descriptor: *number,
                wrong: "was not handed in when evb started; start evb anew with it".to_owned(),
            })?;
            descriptor.try_clone().map_err(|error| LinkError::Handed {
                descriptor: *number,
                wrong: format!("cannot be duplicated: {error}"),
            })
        });
        all.collect()
    }

    /// Takes the device that `spec` describes into use.
    pub(super) fn open(&self, spec: &HandedSpec) -> Result<Opened, LinkError> {
        let queues = self.queues(spec)?;
        // Asking the kernel takes a runtime, of which the calling thread may have one already.
        thread::scope(|scope| {
            let adopted = scope.spawn(|| uplink::adopt(spec, queues)).join();
            adopted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
