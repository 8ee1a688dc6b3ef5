//! Where sites are drawn on the map: a pure function from places to positions.
//!
//! The land is a file made by `scripts/world-map/make.js`; this projects sites in the same way and
//! moves those apart that would cover each other.

use selvedge_model::geo::Point;

/// The drawing's width in its own units.
pub(crate) const WIDTH: f64 = 1000.0;
/// The drawing's height.
pub(crate) const HEIGHT: f64 = 419.0;
/// The latitude of the upper edge.
const NORTH: f64 = 78.0;
/// The least distance between two marks.
const APART: f64 = 19.0;
/// How often marks are pushed apart. Each pass is quadratic, and all but crowds settle in a few.
const PASSES: usize = 60;
/// Beyond so many sites they are drawn where they are: passes would take too long, and so many
/// marks are a pattern rather than places.
const MAX_SPREAD: usize = 300;
/// Space that a label takes: its height, and the width of a character.
const LABEL_HEIGHT: f64 = 14.0;
const LABEL_CHARACTER: f64 = 6.6;
/// From a mark's middle to its label.
const LABEL_GAP: f64 = 10.0;

/// A place on the drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spot {
    /// To the right.
    pub(crate) x: f64,
    /// Downwards.
    pub(crate) y: f64,
}

/// How a label stands to its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Right,
    Left,
    Above,
    Below,
}

/// A site as it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    /// Where the site is.
    pub(crate) home: Spot,
    /// Where its mark is: a little off when others are too near.
    pub(crate) spot: Spot,
    /// Where its label is; `None` where there is no room for one.
    pub(crate) label: Option<Side>,
}

impl Mark {
    /// Whether the mark is so far off that it needs a line to its place.
    pub(crate) fn is_moved(&self) -> bool {
        distance(self.home, self.spot) > 4.0
    }
}

/// A place in the Natural Earth projection (Šavrič et al. 2011).
pub(crate) fn project(point: Point) -> Spot {
    let scale = WIDTH / (2.0 * std::f64::consts::PI * 0.8707);
    let (x, y) = natural_earth(point);
    let (_, top) = natural_earth(Point { lat: NORTH, lon: 0.0 });
    Spot { x: WIDTH / 2.0 + scale * x, y: scale * (top - y) }
}

fn natural_earth(point: Point) -> (f64, f64) {
    let (phi, lambda) = (point.lat.to_radians(), point.lon.to_radians());
    let two = phi * phi;
    let four = two * two;
    let x = lambda
        * (0.8707 - 0.131979 * two
            + four * (-0.013791 + four * (0.003971 * two - 0.001529 * four)));
    let y =
        phi * (1.007226 + two * (0.015085 + four * (-0.044475 + 0.028874 * two - 0.005916 * four)));
    (x, y)
}

/// Where to draw sites at `places` whose labels have so many characters.
pub(crate) fn arrange(sites: &[(Point, usize)]) -> Vec<Mark> {
    let homes: Vec<Spot> = sites.iter().map(|(point, _)| inside(project(*point))).collect();
    let mut spots = homes.clone();
    if spots.len() <= MAX_SPREAD {
        spread(&mut spots);
    }
    let mut marks: Vec<Mark> =
        homes.into_iter().zip(spots).map(|(home, spot)| Mark { home, spot, label: None }).collect();
    label(&mut marks, sites.iter().map(|(_, characters)| *characters));
    marks
}

/// Moves spots until none is too near to another, or it has to do.
fn spread(spots: &mut [Spot]) {
    for _ in 0..PASSES {
        let mut settled = true;
        for second in 1..spots.len() {
            let (before, rest) = spots.split_at_mut(second);
            let Some(b) = rest.first_mut() else { continue };
            for (index, a) in before.iter_mut().enumerate() {
                let far = distance(*a, *b);
                if far >= APART {
                    continue;
                }
                settled = false;
                // Two at the same place part in a direction that depends on their number alone.
                let (dx, dy) = if far < 0.01 {
                    let angle = (index + second) as f64;
                    (angle.cos(), angle.sin())
                } else {
                    ((b.x - a.x) / far, (b.y - a.y) / far)
                };
                let push = (APART - far) / 2.0 + 0.1;
                *a = inside(Spot { x: a.x - dx * push, y: a.y - dy * push });
                *b = inside(Spot { x: b.x + dx * push, y: b.y + dy * push });
            }
        }
        if settled {
            return;
        }
    }
}

fn inside(spot: Spot) -> Spot {
    Spot { x: spot.x.clamp(8.0, WIDTH - 8.0), y: spot.y.clamp(8.0, HEIGHT - 8.0) }
}

fn distance(a: Spot, b: Spot) -> f64 {
    (a.x - b.x).hypot(a.y - b.y)
}

/// A rectangle: left, top, right, bottom.
#[derive(Clone, Copy)]
struct Area(f64, f64, f64, f64);

impl Area {
    fn meets(self, other: Area) -> bool {
        self.0 < other.2 && other.0 < self.2 && self.1 < other.3 && other.1 < self.3
    }
}

/// Gives each mark a label where it covers neither a mark nor an earlier label.
fn label(marks: &mut [Mark], characters: impl Iterator<Item = usize>) {
    const MARK: f64 = 7.0;
    let mut taken: Vec<Area> = marks
        .iter()
        .map(|mark| {
            let Spot { x, y } = mark.spot;
            Area(x - MARK, y - MARK, x + MARK, y + MARK)
        })
        .collect();
    for (mark, characters) in marks.iter_mut().zip(characters) {
        let width = characters as f64 * LABEL_CHARACTER;
        let Spot { x, y } = mark.spot;
        let half = LABEL_HEIGHT / 2.0;
        let sides = [
            (Side::Right, Area(x + LABEL_GAP, y - half, x + LABEL_GAP + width, y + half)),
            (Side::Left, Area(x - LABEL_GAP - width, y - half, x - LABEL_GAP, y + half)),
            (
                Side::Above,
                Area(x - width / 2.0, y - MARK - LABEL_HEIGHT, x + width / 2.0, y - MARK),
            ),
            (
                Side::Below,
                Area(x - width / 2.0, y + MARK, x + width / 2.0, y + MARK + LABEL_HEIGHT),
            ),
        ];
        let free = sides.into_iter().find(|(_, area)| {
            let within = area.0 >= 0.0 && area.2 <= WIDTH && area.1 >= 0.0 && area.3 <= HEIGHT;
            within && !taken.iter().any(|other| other.meets(*area))
        });
        if let Some((side, area)) = free {
            mark.label = Some(side);
            taken.push(area);
        }
    }
}

#[cfg(test)]
mod tests {
    use selvedge_model::geo::CITIES;

    use super::*;

    #[test]
    fn sites_are_drawn_where_the_land_is() {
        // As `scripts/world-map/make.js` prints them.
        for (lat, lon, x, y) in [
            (50.11, 8.68, 521.11, 78.71),
            (-23.55, -46.63, 373.85, 315.58),
            (-36.85, 174.76, 953.71, 358.59),
            (37.77, -122.42, 183.34, 117.89),
        ] {
            let spot = project(Point { lat, lon });
            assert!(
                (spot.x - x).abs() < 0.02 && (spot.y - y).abs() < 0.02,
                "{spot:?}, not {x} {y}"
            );
        }
        let land = include_str!("assets/land.svg");
        assert!(land.contains(&format!("viewBox=\"0 0 {WIDTH} {HEIGHT}\"")));
    }

    #[test]
    fn none_covers_another() {
        let mut sites: Vec<(Point, usize)> =
            CITIES.iter().map(|city| (city.point, city.name.len())).collect();
        // Three sites in one city, and one at the edge of the world.
        let fra = CITIES[0].point;
        sites.extend([(fra, 9), (fra, 9), (Point { lat: 90.0, lon: 180.0 }, 4)]);
        let marks = arrange(&sites);
        for (index, a) in marks.iter().enumerate() {
            assert!(distance(a.home, a.spot) < 60.0, "{a:?} has drifted off");
            for b in &marks[index + 1..] {
                assert!(distance(a.spot, b.spot) > APART - 1.5, "{a:?} covers {b:?}");
            }
        }
        assert!(marks.iter().filter(|mark| mark.label.is_some()).count() > 20);
        assert!(marks[0].is_moved() && !marks[4].is_moved());
        assert_eq!(arrange(&sites), marks);
        assert!(arrange(&[]).is_empty());
    }
}
