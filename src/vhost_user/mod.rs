//! (room: vhost_user)
pub mod front_end;
