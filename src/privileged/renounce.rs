//! Giving up capabilities, before there are threads.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

use crate::sys::process;

/// Those that devices can need; `docs/uplinks.md` says which needs what.
const OF_HELPER: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
];

/// Gives up all capabilities of this process, for good: it is about to read what guests write.
pub fn all() -> Result<(), CapsError> {
    keep(&CapsHashSet::new())
}

/// Gives up those that no request needs.
pub fn all_but_those_of_the_helper() -> Result<(), CapsError> {
    keep(&OF_HELPER.into_iter().collect())
}

/// Keeps these, where the process has them. Programs that it starts get no more.
fn keep(kept: &CapsHashSet) -> Result<(), CapsError> {
    process::set_no_new_privileges().map_err(|error| CapsError::from(error.to_string()))?;
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let kept = permitted.intersection(kept).copied().collect();
    // What is effective is permitted.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}
