//! `evb sriov`: virtual functions listed, handed to virtual machines, and taken back. No daemon is asked:
//! sysfs and the kernel are.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::{EXIT_RUNTIME, show};
use crate::frame::mac::Mac;
use crate::uplink::LinkError;
use crate::uplink::sriov::{
    self, Address, HandoverError, Host, PhysicalFunction, SriovError, VirtualFunction,
};

/// What to do with virtual functions.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Sriov {
    /// List NICs that can have virtual functions, and those they have
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a virtual function to vfio-pci, for a virtual machine
    Bind {
        /// The function
        #[command(flatten)]
        function: Function,
        /// Set its address, too
        #[arg(long, value_name = "MAC")]
        mac: Option<Mac>,
    },
    /// Take a virtual function back from vfio-pci
    Unbind {
        /// The function
        #[command(flatten)]
        function: Function,
    },
    /// Print the arguments by which a VMM passes a virtual function to its virtual machine
    Args {
        /// The function
        #[command(flatten)]
        function: Function,
        /// The program that runs the virtual machine
        #[arg(long, value_enum, default_value = "qemu")]
        vmm: Vmm,
        /// Make it the primary of a failover pair; the standby is the evb port with this socket
        #[arg(long, value_name = "SOCKET")]
        standby: Option<PathBuf>,
    },
}

/// A virtual function.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Function {
    /// PCI address of the virtual function, or network device of its NIC
    #[arg(value_name = "ADDRESS|DEVICE")]
    name: String,
    /// Number of the virtual function, after a DEVICE
    #[arg(value_name = "NUMBER")]
    number: Option<u16>,
}

/// Programs that run virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// QEMU
    Qemu,
    /// cloud-hypervisor
    CloudHypervisor,
}

/// Why it was not done. The text ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SriovCommandError {
    /// Something about a NIC.
    #[error(transparent)]
    Nic(#[from] LinkError),
    /// Something about a function that changes hands.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A NIC's device without the number of one of its functions.
    #[error(
        "{0} is neither a PCI address as in 0000:01:10.2 nor followed by the number of a VF; write `{0} 0`"
    )]
    Number(String),
    /// A failover pair without its address.
    #[error(
        "VF {vf} of {pf} has no address, and a failover pair shares one; set it with `evb sriov bind {pf} {vf} \
         --mac MAC`"
    )]
    NoMac {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
    },
    /// Only QEMU knows failover pairs.
    #[error("cloud-hypervisor has no failover pairs; leave `--standby` out, or use QEMU")]
    NoFailover,
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

impl From<SriovError> for SriovCommandError {
    fn from(error: SriovError) -> Self {
        Self::Nic(error.into())
    }
}

impl Sriov {
    /// Does it and writes the answer.
    ///
    /// # Errors
    ///
    /// Why not, and what helps. That the reader of a pipe has gone is none.
    pub fn execute(self, host: &impl Host, out: &mut impl Write) -> Result<(), SriovCommandError> {
        match self.answer(host, out).and_then(|()| Ok(out.flush()?)) {
            Err(SriovCommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(())
            }
            done => done,
        }
    }

    /// The same on this system and on standard output, for `main`: errors go to standard error.
    pub fn run(self) -> ExitCode {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.execute(&sriov::Linux::default(), &mut out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Where standard error is closed too there is nobody left to tell.
                let _ = writeln!(io::stderr(), "evb: {error}");
                ExitCode::from(EXIT_RUNTIME)
            }
        }
    }

    fn answer(self, host: &impl Host, out: &mut impl Write) -> Result<(), SriovCommandError> {
        match self {
            Sriov::List { json } => {
                let list = list(host)?;
                if json {
                    serde_json::to_writer_pretty(&mut *out, &list).map_err(io::Error::from)?;
                    writeln!(out)?;
                } else {
                    show::functions(out, &list)?;
                }
            }
            Sriov::Bind { function, mac } => {
                let (_, vf) = function.find(host)?;
                sriov::bind(host, &vf.address, mac.map(Mac::octets))?;
                writeln!(out, "{}: {}", vf.address, sriov::VFIO)?;
            }
            Sriov::Unbind { function } => {
                let (_, vf) = function.find(host)?;
                let driver = sriov::unbind(host, &vf.address)?;
                let driver = driver.as_deref().unwrap_or("no driver");
                writeln!(out, "{}: {driver}", vf.address)?;
            }
            Sriov::Args {
                function,
                vmm,
                standby,
            } => {
                let (pf, vf) = function.find(host)?;
                for argument in arguments(host, &pf, &vf, vmm, standby)? {
                    writeln!(out, "{argument}")?;
                }
            }
        }
        Ok(())
    }
}

impl Function {
    /// Finds it, and its physical function.
    fn find(
        &self,
        host: &impl Host,
    ) -> Result<(PhysicalFunction, VirtualFunction), SriovCommandError> {
        match (self.name.parse::<Address>(), self.number) {
            (Ok(address), None) => {
                let found = host.sysfs().virtual_function(&address)?;
                found.ok_or_else(|| HandoverError::NotVirtual { address }.into())
            }
            (_, Some(number)) => {
                let pf = host.sysfs().physical_function(&self.name)?;
                let vf = pf.function(number)?.clone();
                Ok((pf, vf))
            }
            (Err(_), None) => Err(SriovCommandError::Number(self.name.clone())),
        }
    }
}

/// All physical functions, with what their drivers tell of the virtual ones.
fn list(host: &impl Host) -> Result<Vec<PhysicalFunction>, SriovCommandError> {
    let mut list = host.sysfs().physical_functions()?;
    for pf in &mut list {
        let Some(device) = &pf.device else { continue };
        for vf in &mut pf.functions {
            vf.state = host.state(device, vf.number)?;
        }
    }
    Ok(list)
}

/// The arguments for one function, a line each.
fn arguments(
    host: &impl Host,
    pf: &PhysicalFunction,
    vf: &VirtualFunction,
    vmm: Vmm,
    standby: Option<PathBuf>,
) -> Result<Vec<String>, SriovCommandError> {
    let address = &vf.address;
    let Some(socket) = standby else {
        return Ok(match vmm {
            Vmm::Qemu => vec![format!("-device vfio-pci,host={address}")],
            Vmm::CloudHypervisor => {
                vec![format!("--device path=/sys/bus/pci/devices/{address}/")]
            }
        });
    };
    if vmm == Vmm::CloudHypervisor {
        return Err(SriovCommandError::NoFailover);
    }
    let state = match &pf.device {
        Some(device) => host.state(device, vf.number)?,
        None => None,
    };
    let mac = state
        .map(|state| Mac::new(state.mac))
        .filter(|mac| !mac.is_zero())
        .ok_or_else(|| SriovCommandError::NoMac {
            pf: pf.name().to_owned(),
            vf: vf.number,
        })?;
    // Slots of other ports count from the bottom.
    let slot = 256 + u32::from(vf.number);
    Ok(vec![
        format!(
            "-chardev socket,id=standby,path={},reconnect-ms=1000",
            socket.display().to_string().replace(',', ",,")
        ),
        "-netdev vhost-user,id=standby,chardev=standby".to_owned(),
        format!("-device virtio-net-pci,id=standby,netdev=standby,mac={mac},failover=on"),
        format!("-device pcie-root-port,id=primary-port,slot={slot}"),
        format!(
            "-device vfio-pci,id=primary,host={address},bus=primary-port,failover_pair_id=standby"
        ),
    ])
}

#[cfg(test)]
mod tests;
