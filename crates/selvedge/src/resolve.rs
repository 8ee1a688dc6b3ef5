//! Asking a DNS server as a client in a city would: with the city's EDNS client subnet (RFC 7871).

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use domain::base::iana::Rcode;
use domain::base::opt::ClientSubnet;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::A;
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often UDP is tried, each time at the next server.
const TRIES: usize = 3;
/// The largest UDP answer asked for (the DNS flag day's advice of 2020).
const UDP_SIZE: u16 = 1_232;

/// The addresses of `host` in the order that a server gives them, as asked from `subnet`. Of the
/// servers the first that answers counts. Falls back to TCP when the answer is truncated.
pub(crate) async fn lookup(
    servers: &[SocketAddr],
    host: &str,
    subnet: Option<Ipv4Net>,
) -> anyhow::Result<Vec<IpAddr>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let id = u16::from_be_bytes(id);
    let query = query(id, host, subnet)?;
    let mut last = anyhow::anyhow!("there is no DNS server to ask");
    for server in servers.iter().copied().cycle().take(TRIES) {
        match tokio::time::timeout(TIMEOUT, ask_udp(server, &query)).await {
            Ok(Ok(answer)) if answer.header().tc() => {
                let answer = tokio::time::timeout(TIMEOUT, ask_tcp(server, &query))
                    .await
                    .with_context(|| format!("DNS at {server} did not answer over TCP"))??;
                return addresses(id, &answer);
            }
            Ok(Ok(answer)) => return addresses(id, &answer),
            Ok(Err(error)) => last = error.context(format!("DNS at {server} failed")),
            Err(_) => last = anyhow::anyhow!("DNS at {server} did not answer"),
        }
    }
    Err(last)
}

fn query(id: u16, host: &str, subnet: Option<Ipv4Net>) -> anyhow::Result<Vec<u8>> {
    let name =
        Name::<Vec<u8>>::from_str(host).with_context(|| format!("{host:?} is not a host name"))?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    let mut builder = builder.question();
    builder.push((name, Rtype::A))?;
    let mut builder = builder.additional();
    builder.opt(|opt| {
        opt.set_udp_payload_size(UDP_SIZE);
        match subnet {
            Some(subnet) => {
                opt.push(&ClientSubnet::new(subnet.prefix_len(), 0, subnet.addr().into()))
            }
            None => Ok(()),
        }
    })?;
    Ok(builder.finish())
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> anyhow::Result<Message<Vec<u8>>> {
    let local: SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Message::from_octets(answer).map_err(|_| anyhow::anyhow!("the answer is too short"))
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> anyhow::Result<Message<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(query.len())?).await?;
    stream.write_all(query).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Message::from_octets(answer).map_err(|_| anyhow::anyhow!("the answer is too short"))
}

fn addresses(id: u16, answer: &Message<Vec<u8>>) -> anyhow::Result<Vec<IpAddr>> {
    if answer.header().id() != id || !answer.header().qr() {
        bail!("what answered did not answer this question");
    }
    match answer.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => bail!("there is no such host"),
        Rcode::REFUSED => bail!("this DNS does not serve its zone"),
        rcode => bail!("DNS answered {rcode}"),
    }
    let records = answer.answer().context("the answer can't be read")?;
    Ok(records.limit_to::<A>().flatten().map(|record| IpAddr::V4(record.data().addr())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_carries_the_subnet() {
        let bytes = query(7, "shop.edge.test", Some("198.18.3.0/24".parse().unwrap())).unwrap();
        let message = Message::from_octets(bytes).unwrap();
        let opt = message.opt().unwrap();
        let subnet: ClientSubnet = opt.opt().iter().next().unwrap().unwrap();
        assert_eq!(subnet.addr(), IpAddr::from([198, 18, 3, 0]));
        assert_eq!(subnet.source_prefix_len(), 24);
    }
}
