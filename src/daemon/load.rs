//! Load ports on the control side: made from the configuration, started and stopped by the API.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::Daemon;
use crate::api::{Refusal, RefusalKind, Start};
use crate::api_types::LoadStatus;
use crate::config::{Backend, Generator};
use crate::load::{Kind, Rate, Stream};
use crate::worker::load::{LoadPort, Order, Seen};

/// Makes what is behind the port `name`.
///
/// # Errors
///
/// Why not.
pub fn open(name: &str, generator: Option<&Generator>) -> Result<LoadPort, String> {
    let Some(generator) = generator else {
        return Ok(LoadPort::sink());
    };
    let Generator {
        rate,
        sizes,
        flows,
        start,
    } = generator;
    let stream = Stream::new((number(name), 0), Kind::Udp, sizes, flows);
    let stream = stream.map_err(|error| error.to_string())?;
    let port = LoadPort::generator(stream).map_err(|error| error.to_string())?;
    if *start {
        port.give(Order::Start {
            rate: *rate,
            time: None,
        });
    }
    Ok(port)
}

/// Tells the streams of several generators apart, also those of several daemons.
fn number(name: &str) -> u16 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write(name.as_bytes());
    hasher.finish() as u16
}

/// A load port as an operator sees it.
pub fn load_status(load: &LoadPort) -> LoadStatus {
    let Seen { tally, stray } = load.seen();
    LoadStatus {
        generator: load.is_generator(),
        running: load.is_running(),
        received: tally.received,
        missing: tally.missing,
        late: tally.late,
        twice: tally.twice,
        stray,
    }
}

impl Daemon {
    /// Starts or, without `start`, stops the generator behind a port.
    pub(super) fn load(&mut self, name: &str, start: Option<Start>) -> Result<LoadStatus, Refusal> {
        let port = self
            .world
            .port_named(name)
            .and_then(|id| self.world.port(id));
        let port = port.ok_or_else(|| {
            let error = format!("there is no port {name}");
            Refusal::new(
                RefusalKind::NotFound,
                error,
                "`evb status` lists relays and ports",
            )
        })?;
        let load = port.load().filter(|load| load.is_generator());
        let load = load.ok_or_else(|| {
            let error = format!("port {name} is no generator");
            let remedy = "one has `generator = { … }` in the configuration";
            Refusal::new(RefusalKind::Conflict, error, remedy)
        })?;
        load.give(match start {
            None => Order::Stop,
            Some(Start { rate, time }) => Order::Start {
                rate: rate
                    .or_else(|| self.configured_rate(name))
                    .unwrap_or(Rate::Max),
                time,
            },
        });
        Ok(load_status(load))
    }

    fn configured_rate(&self, port: &str) -> Option<Rate> {
        match &self.config.ports.get(port)?.backend {
            Backend::Generator(generator) => Some(generator.rate),
            _ => None,
        }
    }
}
