//! The queues of a station: what it sends, and what it looks at in frames that come.

use hdrhistogram::Histogram;

use super::clock::Clock;
use super::error::{BenchError, system};
use super::latency;
use super::station::Make;
use crate::load::{self, Ledger, Pacer, Rate, Stamp, Stream, is_sampled, is_whole, sent_at};
use crate::virtqueue::driver::{HeaderBytes, RxQueue, SendError, TxQueue};

/// Bytes of a virtio-net header, which is a modern one always.
pub const HEADER: usize = 12;

/// A transmit queue and what it sends.
pub struct Sender {
    /// What it goes into.
    pub queue: TxQueue,
    stream: Stream,
    header: HeaderBytes,
    /// When the next frame may leave.
    pub pacer: Pacer,
    /// With less room in the ring it waits for more.
    least: usize,
    sampled: bool,
    whole: Vec<u8>,
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Turns, and those that ended because the ring was full.
    pub turns: u64,
    /// See `turns`.
    pub full: u64,
}

impl Sender {
    /// It sends `stream` as fast as it is taken.
    pub fn new(queue: TxQueue, stream: Stream, sampled: bool) -> Self {
        Self {
            least: (queue.vacant() / 4).clamp(1, 32),
            queue,
            header: stream.header().encode(),
            stream,
            pacer: Pacer::new(Rate::Max),
            sampled,
            whole: vec![],
            frames: 0,
            bytes: 0,
            turns: 0,
            full: 0,
        }
    }

    /// Flows that it sends.
    pub fn flows(&self) -> usize {
        self.stream.flows()
    }

    /// Sends what is due, up to `most` frames; returns how many it sent.
    #[inline]
    pub fn send(&mut self, now_ns: u64, most: usize) -> Result<usize, BenchError> {
        self.turns += 1;
        // A few at a time would cost both sides as much as many.
        let room = self.queue.vacant();
        if room < most.min(self.least) && {
            self.queue.reclaim()?;
            self.queue.vacant() < most.min(self.least)
        } {
            self.full += 1;
            return Ok(0);
        }
        self.pacer.refill(now_ns);
        let mut count = 0;
        while count < most {
            let len = self.stream.next_len();
            if !self.pacer.take(len) {
                break;
            }
            let frame = self.stream.compose(now_ns);
            let sent = if self.sampled && is_sampled(frame.stamp) {
                frame.write_whole(&mut self.whole);
                self.queue.send(&self.header, &self.whole)
            } else {
                self.queue.send_head(&self.header, frame.head, frame.len)
            };
            match sent {
                Ok(()) => {}
                Err(SendError::Full) => {
                    self.pacer.give_back(len);
                    self.full += 1;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            self.stream.advance();
            self.bytes += len as u64;
            count += 1;
        }
        self.frames += count as u64;
        if count > 0 {
            self.queue.kick().map_err(system("wake the back end"))?;
        }
        Ok(count)
    }
}

/// A receive queue.
pub struct Receiver {
    /// Where frames come from.
    pub queue: RxQueue,
    /// With so many free buffers they are posted again.
    refill: u16,
    head: [u8; HEADER + load::HEAD],
    rest: Vec<u8>,
}

impl Receiver {
    /// A queue with so many buffers.
    pub fn new(queue: RxQueue, buffers: u16) -> Self {
        Self {
            queue,
            refill: (buffers / 8).clamp(1, 32),
            head: [0; HEADER + load::HEAD],
            rest: vec![],
        }
    }

    /// Takes frames, up to `most`; returns how many.
    #[inline]
    pub fn poll(&mut self, most: usize, inbox: &mut Inbox) -> Result<usize, BenchError> {
        let mut count = 0;
        while count < most {
            let head = &mut self.head[..HEADER + inbox.head];
            let sampled = inbox.sampled;
            let wanted = |head: &[u8]| {
                sampled && Stamp::read(head).is_some_and(|(stamp, _)| is_sampled(stamp))
            };
            let Some(len) = self.queue.recv_head(head, wanted, &mut self.rest)? else {
                break;
            };
            let head = &head[HEADER..len.min(HEADER + inbox.head)];
            inbox.note(head, &self.rest, len - HEADER);
            count += 1;
        }
        // A few at a time would cost the back end as much as many.
        if self.queue.free() >= self.refill {
            self.queue.refill();
            self.queue.kick().map_err(system("wake the back end"))?;
        }
        Ok(count)
    }
}

/// What became of the frames sent to a station.
pub struct Inbox {
    /// By number.
    pub ledger: Ledger,
    /// Bytes of the expected frames.
    pub bytes: u64,
    /// Frames of another stream, or of strangers.
    pub stray: u64,
    /// Sampled frames whose bytes are not those that were sent.
    pub corrupt: u64,
    /// How long timed frames were under way.
    pub delays: Histogram<u64>,
    clock: Clock,
    expects: u16,
    /// Bytes of a frame that are looked at.
    head: usize,
    timed: bool,
    sampled: bool,
}

impl Inbox {
    /// An inbox for frames of stream `expects`, of which there are as many flows as in `streams`.
    pub fn new(make: &Make, streams: &[Stream], expects: u16) -> Self {
        let flows = streams.iter().map(Stream::flows).sum();
        let head = streams.iter().map(Stream::head_len).max();
        Self {
            ledger: Ledger::new(flows),
            bytes: 0,
            stray: 0,
            corrupt: 0,
            delays: latency::histogram(),
            clock: make.clock,
            expects,
            head: head.unwrap_or_default(),
            timed: make.timed,
            sampled: make.sampled,
        }
    }

    /// Counts from zero.
    pub fn restart(&mut self) {
        self.ledger.restart();
        (self.bytes, self.stray, self.corrupt) = (0, 0, 0);
        self.delays.reset();
    }

    /// A frame of `len` bytes has come, with these at its beginning and, if it is sampled, behind that.
    #[inline]
    fn note(&mut self, head: &[u8], rest: &[u8], len: usize) {
        match Stamp::read(head) {
            Some((stamp, end)) if stamp.stream == self.expects => {
                self.ledger.note(stamp);
                self.bytes += len as u64;
                if self.timed
                    && let Some(sent_ns) = sent_at(&head[end..])
                {
                    let delay = self.clock.now_ns().saturating_sub(sent_ns);
                    self.delays.saturating_record(delay);
                }
                if self.sampled && is_sampled(stamp) && !is_whole(stamp, rest) {
                    self.corrupt += 1;
                }
            }
            _ => self.stray += 1,
        }
    }
}
