//! The `evb` binary: command line → configuration → daemon. Thin.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use evb::bench;
use evb::cli::{self, Cli, Command, Run};
use evb::config::Config;
use evb::daemon;
use evb::privileged::{self, Handed, Privileged};
use evb::uplink::Spec;
use log::LevelFilter;

fn main() -> ExitCode {
    // The daemon starts this very program again as its helper, before there are threads.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() == Some(privileged::SUBCOMMAND.as_ref()) {
        let level = arguments
            .next()
            .and_then(|level| level.to_str()?.parse().ok());
        return help(level.unwrap_or(LevelFilter::Info));
    }
    let cli = Cli::parse();
    let level = match cli::logging::level(cli.log) {
        Ok(level) => level,
        Err(error) => return fail(cli::EXIT_USAGE, &error),
    };
    match cli.command {
        Command::Client(client) => client.run(),
        Command::Sriov(sriov) => sriov.run(),
        Command::Bench(options) => bench::run(&options),
        Command::Check(check) => match read(|| Config::load(&check.config)) {
            Ok(_) => ExitCode::SUCCESS,
            Err(code) => code,
        },
        Command::Run(run) => {
            if let Err(error) = cli::logging::init(level) {
                return fail(cli::EXIT_RUNTIME, &format!("cannot log: {error}"));
            }
            serve(run)
        }
    }
}

/// Runs the helper of a daemon until that is gone. It logs as the daemon does.
fn help(level: LevelFilter) -> ExitCode {
    match cli::logging::init(level).and_then(|()| privileged::serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(cli::EXIT_RUNTIME, &format!("privileged helper: {error}")),
    }
}

/// Runs the daemon until it is told to stop.
fn serve(run: Run) -> ExitCode {
    let loaded = read(|| match &run.config {
        Some(file) => Config::load(file),
        None => Config::from_ports(&run.ports),
    });
    let mut config = match loaded {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Some(workers) = run.workers {
        config.daemon.workers = workers.into();
    }
    config.daemon.control = run.control.or(config.daemon.control);
    config.daemon.state = run.state.or(config.daemon.state);
    let done = privileged(&config).and_then(|privileged| {
        daemon::run(config, run.config, privileged).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(cli::EXIT_RUNTIME, &error),
    }
}

/// The way to all that needs a path, a capability or a descriptor that was handed in.
fn privileged(config: &Config) -> Result<Privileged, String> {
    let specs = config.specs();
    let devices = specs.values().flat_map(Spec::devices);
    let handed = specs.values().filter_map(|spec| match spec {
        Spec::Handed(handed) => Some(handed),
        _ => None,
    });
    // Before the helper starts, which is not to have them.
    let handed = Handed::take(handed).map_err(|error| error.to_string())?;
    let privileged = Privileged::spawn(config.directories(), devices)
        .and_then(Privileged::renounce)
        .map_err(|error| error.to_string())?;
    Ok(privileged.with(handed))
}

/// Reads and checks a configuration.
fn read(
    load: impl FnOnce() -> Result<Config, evb::config::ConfigErrors>,
) -> Result<Config, ExitCode> {
    load().map_err(|errors| {
        eprintln!("{}", errors.render(std::io::stderr().is_terminal()));
        ExitCode::from(cli::EXIT_USAGE)
    })
}

fn fail(code: u8, error: &str) -> ExitCode {
    eprintln!("evb: {error}");
    ExitCode::from(code)
}
