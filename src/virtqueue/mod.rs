//! (room: virtqueue)
pub mod driver;
