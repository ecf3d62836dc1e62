//! (room: virtqueue)
