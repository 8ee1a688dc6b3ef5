//! Places, distances and the round-trip model that stands in for measurement until there is some.

use serde::{Deserialize, Serialize};

use crate::topology::Region;

/// A place on Earth in degrees; north and east are positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Latitude, -90 to 90.
    pub lat: f64,
    /// Longitude, -180 to 180.
    pub lon: f64,
}

/// Mean radius of Earth in km (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0;
/// Round trip per km of great circle: light in fibre needs 10 µs a km there and back, and real
/// paths are about half as long again as the great circle.
const RTT_MS_PER_KM: f64 = 0.015;
/// What even the nearest site costs: access network and queues, in ms.
const RTT_FLOOR_MS: f64 = 1.0;

impl Point {
    /// Great-circle distance in km (haversine).
    pub fn distance_km(self, other: Point) -> f64 {
        let (lat1, lat2) = (self.lat.to_radians(), other.lat.to_radians());
        let half_dlat = (lat2 - lat1) / 2.0;
        let half_dlon = (other.lon - self.lon).to_radians() / 2.0;
        let a = half_dlat.sin().powi(2) + lat1.cos() * lat2.cos() * half_dlon.sin().powi(2);
        2.0 * EARTH_RADIUS_KM * a.sqrt().min(1.0).asin()
    }
}

/// Where round-trip times come from. In the box and as a prior: [`DistanceModel`].
pub trait RoundTrips {
    /// The round-trip time between two places in ms.
    fn rtt_ms(&self, from: Point, to: Point) -> f64;
}

/// Round trips derived from great-circle distance.
#[derive(Debug, Clone, Copy, Default)]
pub struct DistanceModel;

impl RoundTrips for DistanceModel {
    fn rtt_ms(&self, from: Point, to: Point) -> f64 {
        RTT_FLOOR_MS + RTT_MS_PER_KM * from.distance_km(to)
    }
}

/// A city of the built-in table. In the box each has a client subnet; see [`City::subnet`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct City {
    /// English name.
    pub name: &'static str,
    /// IATA metropolitan code in lower case; a site there has it as id.
    pub code: &'static str,
    /// ISO 3166-1 alpha-2.
    pub country: &'static str,
    /// The continent.
    pub region: Region,
    /// Where it lies.
    pub point: Point,
}

impl City {
    /// The city's client subnet in the box: a /24 of 198.18.0.0/15 (RFC 2544), by table position.
    pub fn subnet(&self) -> ipnet::Ipv4Net {
        let index = CITIES.iter().position(|city| city.code == self.code).unwrap_or(0) as u16;
        let [high, low] = index.to_be_bytes();
        ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(198, 18 + (high & 1), low, 0), 24)
    }

    /// Finds a city by name or code, ignoring case.
    pub fn find(text: &str) -> Option<&'static City> {
        CITIES.iter().find(|city| {
            city.name.eq_ignore_ascii_case(text) || city.code.eq_ignore_ascii_case(text)
        })
    }
}

const fn city(
    name: &'static str,
    code: &'static str,
    country: &'static str,
    region: Region,
    lat: f64,
    lon: f64,
) -> City {
    City { name, code, country, region, point: Point { lat, lon } }
}

/// Cities that can be sites or clients of the box. The first eight are its default sites.
pub const CITIES: [City; 28] = [
    city("Frankfurt", "fra", "DE", Region::Europe, 50.11, 8.68),
    city("New York", "nyc", "US", Region::NorthAmerica, 40.71, -74.01),
    city("Singapore", "sin", "SG", Region::Asia, 1.35, 103.82),
    city("Sao Paulo", "sao", "BR", Region::SouthAmerica, -23.55, -46.63),
    city("Sydney", "syd", "AU", Region::Oceania, -33.87, 151.21),
    city("Johannesburg", "jnb", "ZA", Region::Africa, -26.20, 28.05),
    city("Tokyo", "tyo", "JP", Region::Asia, 35.68, 139.69),
    city("San Francisco", "sfo", "US", Region::NorthAmerica, 37.77, -122.42),
    city("London", "lon", "GB", Region::Europe, 51.51, -0.13),
    city("Paris", "par", "FR", Region::Europe, 48.86, 2.35),
    city("Amsterdam", "ams", "NL", Region::Europe, 52.37, 4.90),
    city("Madrid", "mad", "ES", Region::Europe, 40.42, -3.70),
    city("Warsaw", "waw", "PL", Region::Europe, 52.23, 21.01),
    city("Stockholm", "sto", "SE", Region::Europe, 59.33, 18.07),
    city("Mumbai", "bom", "IN", Region::Asia, 19.08, 72.88),
    city("Dubai", "dxb", "AE", Region::Asia, 25.20, 55.27),
    city("Seoul", "sel", "KR", Region::Asia, 37.57, 126.98),
    city("Hong Kong", "hkg", "HK", Region::Asia, 22.32, 114.17),
    city("Jakarta", "jkt", "ID", Region::Asia, -6.21, 106.85),
    city("Chicago", "chi", "US", Region::NorthAmerica, 41.88, -87.63),
    city("Dallas", "dfw", "US", Region::NorthAmerica, 32.78, -96.80),
    city("Toronto", "yto", "CA", Region::NorthAmerica, 43.65, -79.38),
    city("Mexico City", "mex", "MX", Region::NorthAmerica, 19.43, -99.13),
    city("Bogota", "bog", "CO", Region::SouthAmerica, 4.71, -74.07),
    city("Santiago", "scl", "CL", Region::SouthAmerica, -33.45, -70.67),
    city("Lagos", "los", "NG", Region::Africa, 6.52, 3.38),
    city("Nairobi", "nbo", "KE", Region::Africa, -1.29, 36.82),
    city("Auckland", "akl", "NZ", Region::Oceania, -36.85, 174.76),
];

/// How many of [`CITIES`] are the box's sites when nothing else is said.
pub const DEFAULT_SITES: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn distances_are_plausible() {
        let km = City::find("london").unwrap().point.distance_km(City::find("NYC").unwrap().point);
        assert!((5_500.0..5_650.0).contains(&km), "{km}");
    }

    #[test]
    fn subnets_and_codes_are_distinct() {
        assert_eq!(CITIES.iter().map(City::subnet).collect::<BTreeSet<_>>().len(), CITIES.len());
        assert_eq!(CITIES.iter().map(|c| c.code).collect::<BTreeSet<_>>().len(), CITIES.len());
    }
}
