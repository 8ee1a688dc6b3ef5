//! The proxy over real sockets.

#[cfg(test)]
mod cache;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod downgrade;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod encoded;
#[cfg(test)]
mod extended_connect;
#[cfg(test)]
mod files;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod hints;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http2_upstreams;
#[cfg(test)]
mod http3;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod pins;
#[cfg(test)]
mod poisoning;
#[cfg(test)]
mod redirects;
#[cfg(test)]
mod responses;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod site;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tls_upstreams;
#[cfg(test)]
mod trailers;
#[cfg(test)]
mod tunnels;
#[cfg(test)]
mod tunnels_http2;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod workloads;
