//! An FDB on its way to a client: written by a thread of its own, sent as it is read.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::FdbWalk;

/// Bytes sent at a time, about.
const PIECE: usize = 32 * 1024;
/// Pieces written ahead of the client.
const AHEAD: usize = 2;

/// Starts the walk and returns what it writes: a JSON array, one entry on a line. An array that does
/// not end says that the walk did not.
pub(super) fn body(walk: FdbWalk, permit: OwnedSemaphorePermit) -> Body {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        write(walk, |piece| match pieces.blocking_send(piece) {
            Ok(()) => ControlFlow::Continue(()),
            // The client has gone.
            Err(_) => ControlFlow::Break(()),
        });
        drop(permit);
    });
    Body::new(Pieces(receiver))
}

/// Writes the entries of a walk in pieces.
fn write(walk: FdbWalk, mut send: impl FnMut(Bytes) -> ControlFlow<()>) {
    let mut text = Vec::with_capacity(PIECE + 1024);
    let mut separator: &[u8] = b"[\n";
    let mut stopped = false;
    walk(&mut |entry| {
        text.extend_from_slice(separator);
        separator = b",\n";
        // Names and numbers always have a JSON form, and memory takes what it is given.
        if stopped || serde_json::to_writer(&mut text, &entry).is_err() {
            stopped = true;
            return ControlFlow::Break(());
        }
        if text.len() >= PIECE {
            let piece = std::mem::replace(&mut text, Vec::with_capacity(PIECE + 1024));
            stopped = send(piece.into()).is_break();
        }
        if stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    if stopped {
        return;
    }
    text.extend_from_slice(if separator == b",\n" {
        b"\n]\n"
    } else {
        b"[]\n"
    });
    // Whether it arrives is not our business any more.
    let _ = send(text.into());
}

/// The receiving end as a body.
struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}
