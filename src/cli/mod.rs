//! The operator's commands: what can be written, and those that ask a running daemon.
//!
//! `run` and `check` are only parsed here; `main` hands them on. `sriov` asks the kernel. Everything else is
//! a [`Client`], which speaks the control API as any other program could and knows nothing of the daemon
//! but that.
//!
//! Exit codes: 0, 1 for what went wrong while running, 2 for a wrong command line or configuration. What
//! was asked for goes to standard output, everything else to standard error. A reader that closes the
//! pipe early is no error.

pub mod bench;
mod client;
mod load;
pub mod logging;
mod show;
pub mod sriov;
pub mod table;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};
use log::LevelFilter;

use crate::api_types::{FdbEntry, FdbFilter, Flushed, Reloaded, Status, parse_vid};
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;

pub use client::ClientError;
pub use load::{FindRate, Load};

/// Where the control socket is unless it is said otherwise.
pub const DEFAULT_CONTROL: &str = "/run/evb/control.sock";

/// Exit code for what goes wrong while running.
pub const EXIT_RUNTIME: u8 = 1;

/// Exit code for a wrong command line or configuration; clap uses it too.
pub const EXIT_USAGE: u8 = 2;

/// An edge virtual bridge: connects virtual machines to each other and to the network by vhost-user.
#[derive(Debug, Parser)]
#[command(
    name = "evb",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Log this and what is more severe: off, error, warn, info, debug or trace
    /// [default: what `EVB_LOG` says, or info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = logging::parse_level)]
    pub log: Option<LevelFilter>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the bridge in the foreground
    Run(Run),
    /// Check a configuration file and exit
    Check(Check),
    /// Measure how fast frames cross the bridge on this machine
    Bench(Box<bench::Bench>),
    /// List virtual functions of NICs, and hand them to virtual machines
    #[command(subcommand)]
    Sriov(sriov::Sriov),
    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take it for the text of each client command"
    )]
    Client(Client),
}

/// `evb run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["config", "ports"]))]
pub struct Run {
    /// Read the configuration from this file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Instead of a file: listen on these vhost-user sockets, in one relay
    #[arg(long = "port", value_name = "PATH", num_args = 1.., value_parser = absolute)]
    pub ports: Vec<PathBuf>,
    /// Control socket, before the one in the file
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    pub control: Option<PathBuf>,
    /// Directory for what ports remember over a restart, before the one in the file
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub state: Option<PathBuf>,
    /// Number of forwarding threads, before the one in the file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: Option<u16>,
}

/// `evb check`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Check {
    /// The file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// A command that asks a running daemon.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Client {
    /// Show relays and ports
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Show what was counted in each VLAN
    Vlans {
        /// Only of this relay
        #[arg(long, value_name = "NAME")]
        relay: Option<String>,
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Show or flush the forwarding database
    #[command(subcommand)]
    Fdb(Fdb),
    /// Have generators send, for benchmarks
    #[command(subcommand)]
    Load(load::Load),
    /// Make the daemon read its configuration again
    Reload {
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
}

/// `evb fdb`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Fdb {
    /// Show addresses and the ports they are behind
    Show {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Forget learned addresses: all, or those that fit
    Flush {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
    },
}

/// Which entries of the FDB: those that fit everything given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Filter {
    /// Only of this relay
    #[arg(long, value_name = "NAME")]
    pub relay: Option<String>,
    /// Only behind this port
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Only in this VLAN
    #[arg(long, value_name = "VID", value_parser = parse_vid)]
    pub vid: Option<Vid>,
    /// Only this address
    #[arg(long, value_name = "MAC")]
    pub mac: Option<Mac>,
}

impl From<Filter> for FdbFilter {
    fn from(
        Filter {
            relay,
            port,
            vid,
            mac,
        }: Filter,
    ) -> FdbFilter {
        FdbFilter {
            relay,
            port,
            vid,
            mac,
        }
    }
}

/// Which daemon.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// Its control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub control: PathBuf,
}

/// Sockets are named by their whole path, because another process makes them.
fn absolute(text: &str) -> io::Result<PathBuf> {
    std::path::absolute(text)
}

impl Client {
    /// Asks the daemon and writes the answer.
    ///
    /// # Errors
    ///
    /// What the daemon said, or why it could not be asked, or the error of writing. That the reader
    /// of a pipe has gone is none.
    pub fn execute(self, out: &mut impl Write) -> Result<(), ClientError> {
        match self
            .answer(out)
            .and_then(|()| out.flush().map_err(ClientError::Output))
        {
            Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }

    /// The same on standard output, for `main`: errors go to standard error.
    pub fn run(self) -> ExitCode {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.execute(&mut out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Where standard error is closed too there is nobody left to tell.
                let _ = writeln!(io::stderr(), "evb: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }

    fn answer(self, out: &mut impl Write) -> Result<(), ClientError> {
        match self {
            Client::Status { json, target } => {
                let answer = client::ask(&target.control, "GET", "/v1/status")?;
                let status: Status = answer.parse()?;
                if json {
                    answer.pass_on(out)
                } else {
                    show::status(out, &status)
                }
            }
            Client::Vlans { relay, target } => {
                let answer = client::ask(&target.control, "GET", "/v1/status")?;
                let mut relays = answer.parse::<Status>()?.relays;
                if let Some(name) = relay {
                    relays.retain(|relay| relay.name == name);
                    if relays.is_empty() {
                        return Err(ClientError::UnknownRelay(name));
                    }
                }
                show::vlans(out, &relays)
            }
            Client::Fdb(Fdb::Show {
                filter,
                json,
                target,
            }) => {
                let path = client::path("/v1/fdb", FdbFilter::from(filter).pairs());
                let answer = client::ask(&target.control, "GET", &path)?;
                let entries: Vec<FdbEntry> = answer.parse()?;
                if json {
                    answer.pass_on(out)
                } else {
                    show::fdb(out, entries)
                }
            }
            Client::Fdb(Fdb::Flush { filter, target }) => {
                let path = client::path("/v1/fdb", FdbFilter::from(filter).pairs());
                let flushed: Flushed = client::ask(&target.control, "DELETE", &path)?.parse()?;
                show::flushed(out, flushed)
            }
            Client::Load(load) => return load.answer(out),
            Client::Reload { target } => {
                let reloaded: Reloaded =
                    client::ask(&target.control, "POST", "/v1/reload")?.parse()?;
                show::reloaded(out, &reloaded)
            }
        }
        .map_err(ClientError::Output)
    }
}
