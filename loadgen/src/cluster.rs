//! Two node processes on loopback: started, listened to, killed, started again, and never left behind.
//!
//! Invariant: a node process ends with its [`Cluster`] on every path: dropped, it is killed and waited for; if the parent dies
//! without dropping, the kernel kills the child (parent death signal, set by the child itself).

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::{NODES, START, START_ATTEMPTS};
use crate::protocol::{BadLine, Command, Said};

/// Why the cluster could not do what was asked.
#[derive(Debug)]
pub enum ClusterError {
    /// A process, pipe or port could not be had.
    Io(&'static str, io::Error),
    /// A node ended or said why it cannot go on.
    Node {
        /// Which.
        node: usize,
        /// In its own words.
        reason: String,
    },
    /// A node said nothing in time.
    Silent {
        /// What it should have said.
        waiting_for: &'static str,
    },
    /// See [`BadLine`].
    Line(BadLine),
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Node { node, reason } => write!(f, "node {node}: {reason}"),
            Self::Silent { waiting_for } => write!(f, "no node said {waiting_for:?} in time"),
            Self::Line(bad) => bad.fmt(f),
        }
    }
}

impl std::error::Error for ClusterError {}

/// What came out of a node's pipe.
#[derive(Debug)]
pub struct Heard {
    /// From which node.
    pub node: usize,
    /// What.
    pub said: Said,
}

enum Raw {
    Line(String),
    Closed,
}

struct Node {
    child: Child,
    input: ChildStdin,
    /// Counts starts, so that a dead process' last lines are told from its successor's.
    life: u64,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// How to start nodes.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The binary.
    pub program: PathBuf,
    /// What it is called with; `--index I --shards S --directory D --addresses A,B --idle W --parent PID` follow.
    pub arguments: Vec<String>,
    /// Whether idle shards spin (`true`) or park.
    pub spin: bool,
    /// Shards a node.
    pub shards: u16,
    /// Holds certificates and one data directory a node.
    pub directory: PathBuf,
}

/// The running processes.
pub struct Cluster {
    config: ClusterConfig,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Node>>,
    lives: u64,
    sender: Sender<(usize, u64, Raw)>,
    lines: Receiver<(usize, u64, Raw)>,
    /// Each node's driver, as it said when it became ready.
    pub drivers: Vec<String>,
}

impl Cluster {
    /// Starts all nodes and waits until they serve. Picks other ports when one was taken in the meantime.
    ///
    /// # Errors
    /// What the last attempt failed on; no process is left.
    pub fn start(config: ClusterConfig) -> Result<Self, ClusterError> {
        let mut attempt = 1;
        loop {
            let started = Self::start_once(config.clone());
            match started {
                Err(ClusterError::Node { .. }) if attempt < START_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    fn start_once(config: ClusterConfig) -> Result<Self, ClusterError> {
        let addresses = free_addresses(config.shards).map_err(|error| ClusterError::Io("finding free ports", error))?;
        let (sender, lines) = mpsc::channel();
        let mut cluster = Self {
            config,
            addresses,
            nodes: (0..NODES).map(|_| None).collect(),
            lives: 0,
            sender,
            lines,
            drivers: vec![String::new(); NODES],
        };
        for node in 0..NODES {
            cluster.spawn(node)?;
        }
        cluster.await_ready(NODES)?;
        Ok(cluster)
    }

    fn spawn(&mut self, node: usize) -> Result<(), ClusterError> {
        self.lives += 1;
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        let mut child = Process::new(&self.config.program)
            .args(&self.config.arguments)
            .args(["--index", &node.to_string()])
            .args(["--shards", &self.config.shards.to_string()])
            .arg("--directory")
            .arg(&self.config.directory)
            .args(["--addresses", &addresses.join(",")])
            .args(["--idle", if self.config.spin { "spin" } else { "park" }])
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| ClusterError::Io("starting a node process", error))?;
        let input = child.stdin.take().expect("standard input was asked for as a pipe");
        let output = child.stdout.take().expect("standard output was asked for as a pipe");
        let (sender, life) = (self.sender.clone(), self.lives);
        self.nodes[node] = Some(Node { child, input, life });
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((node, life, Raw::Line(line))).is_err() {
                    return;
                }
            }
            let _parent_gone = sender.send((node, life, Raw::Closed));
        });
        Ok(())
    }

    fn await_ready(&mut self, mut missing: usize) -> Result<(), ClusterError> {
        let deadline = Instant::now() + START;
        while missing > 0 {
            let heard = self.hear(deadline)?.ok_or(ClusterError::Silent { waiting_for: "ready" })?;
            if let Said::Ready { driver } = heard.said {
                self.drivers[heard.node] = driver;
                missing -= 1;
            }
        }
        Ok(())
    }

    /// Sends a command to one node.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn order(&mut self, node: usize, command: &Command) -> Result<(), ClusterError> {
        let gone = |reason: String| ClusterError::Node { node, reason };
        let process = self.nodes[node].as_mut().ok_or_else(|| gone("is not running".to_owned()))?;
        writeln!(process.input, "{command}").and_then(|()| process.input.flush()).map_err(|e| gone(e.to_string()))
    }

    /// The next thing that any running node says; `None` when the deadline passes first.
    ///
    /// # Errors
    /// When a node ends, says that it cannot go on, or a line makes no sense.
    pub fn hear(&mut self, deadline: Instant) -> Result<Option<Heard>, ClusterError> {
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            let (node, life, raw) = match self.lines.recv_timeout(wait) {
                Ok(received) => received,
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the cluster holds a sender itself")
                }
            };
            let current = self.nodes[node].as_ref().is_some_and(|node| node.life == life);
            match raw {
                // What a node said before it was killed counts: it reached the pipe.
                Raw::Line(line) => match line.parse() {
                    Ok(Said::Error(reason)) if current => {
                        return Err(ClusterError::Node { node, reason });
                    }
                    Ok(said) => return Ok(Some(Heard { node, said })),
                    // A line that the kill cut short.
                    Err(_) if !current => {}
                    Err(bad) => return Err(ClusterError::Line(bad)),
                },
                Raw::Closed if current => {
                    return Err(ClusterError::Node { node, reason: "the process ended".to_owned() });
                }
                Raw::Closed => {}
            }
        }
    }

    /// Sends SIGKILL to a node and waits until the kernel has removed it.
    pub fn kill(&mut self, node: usize) {
        drop(self.nodes[node].take());
    }

    /// Starts a killed node again, on its data and its ports, without waiting; it will say `ready`.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn restart(&mut self, node: usize) -> Result<(), ClusterError> {
        self.spawn(node)
    }

    /// Asks all nodes to shut down and waits for them; kills those that do not.
    pub fn stop(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for node in 0..NODES {
            let _gone = self.order(node, &Command::Stop);
        }
        while self.nodes.iter().any(Option::is_some) {
            match self.hear(deadline) {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(ClusterError::Node { node, .. }) => self.kill(node),
                Err(_) => return,
            }
        }
    }

    /// Where data and certificates are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.config.directory
    }
}

/// One address a node, each with a run of free UDP ports, one a shard. They are free now; a node that finds one taken a
/// moment later says so.
fn free_addresses(shards: u16) -> io::Result<Vec<SocketAddr>> {
    let mut held = Vec::new();
    let mut addresses = Vec::new();
    while addresses.len() < NODES {
        let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = first.local_addr()?;
        let rest: Vec<_> = (1..shards)
            .map_while(|shard| UdpSocket::bind((Ipv4Addr::LOCALHOST, address.port().checked_add(shard)?)).ok())
            .collect();
        if rest.len() + 1 == usize::from(shards) {
            addresses.push(address);
        }
        // Held until all are chosen, so that no port is chosen twice and a bad run is not tried again.
        held.push(first);
        held.extend(rest);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_of_every_node_gets_a_port_of_its_own() {
        let addresses = free_addresses(3).expect("loopback has free ports");
        assert_eq!(addresses.len(), NODES);
        let all: std::collections::BTreeSet<u16> =
            addresses.iter().flat_map(|address| (0..3).map(|shard| address.port() + shard)).collect();
        assert_eq!(all.len(), 3 * NODES);
    }

    /// A "node" that is a line of shell.
    fn scripted(script: &str) -> ClusterConfig {
        let arguments = ["-c", script, "node"].map(str::to_owned).to_vec();
        ClusterConfig { program: "/bin/sh".into(), arguments, spin: false, shards: 1, directory: "/nowhere".into() }
    }

    fn soon() -> Instant {
        Instant::now() + START
    }

    #[test]
    fn nodes_start_answer_die_and_come_back() {
        let config = scripted("echo ready fake; read line; echo \"error $line\"; exec sleep 1000");
        let mut cluster = Cluster::start(config).expect("both say ready");
        assert_eq!(cluster.drivers, ["fake", "fake"]);
        cluster.kill(1);
        assert!(cluster.order(1, &Command::Stop).is_err());
        cluster.restart(1).expect("a process can be started");
        let heard = cluster.hear(soon()).expect("nothing is wrong").expect("it is ready in time");
        assert_eq!((heard.node, heard.said), (1, Said::Ready { driver: "fake".to_owned() }));
        cluster.order(0, &Command::Stop).expect("it lives");
        let why = cluster.hear(soon()).expect_err("it says an error").to_string();
        assert_eq!(why, "node 0: stop");
    }

    #[test]
    fn a_node_that_ends_is_an_error_and_its_children_do_not_outlive_the_cluster() {
        let config = scripted("echo \"ready $$\"; exec sleep 1000");
        let cluster = Cluster::start(config).expect("both say ready");
        let pids: Vec<String> = cluster.drivers.clone();
        assert!(pids.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()));
        drop(cluster);
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        let config = scripted("exit 3");
        let why = Cluster::start(config).map(|_| ()).expect_err("no node says ready").to_string();
        assert!(why.contains("the process ended"), "{why}");
    }
}
