//! (room: sys)
