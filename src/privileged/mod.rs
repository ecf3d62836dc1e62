//! (room: privileged)
