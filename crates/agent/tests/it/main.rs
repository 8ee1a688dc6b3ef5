//! An agent with an embedded fabric; the test plays control.

#[cfg(test)]
mod failures;
#[cfg(test)]
mod http3;
#[cfg(test)]
mod life;
#[cfg(test)]
mod process;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tunnels;
#[cfg(test)]
mod world;
