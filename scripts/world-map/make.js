// Makes crates/control/src/console/assets/land.svg: the world's land in the Natural Earth
// projection, for the console's map. Run by hand, when the map is to look different:
//
//   cd scripts/world-map && npm install --no-package-lock && node make.js
//
// The shapes are Natural Earth's (public domain), 1:50m, from the package world-atlas. What is
// smaller than a few pixels is left out, and Antarctica is: nobody has a site there.
// crates/control/src/console/map.rs projects sites in the same way; its test holds points that
// this script prints.

import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { geoArea, geoNaturalEarth1, geoPath } from "d3-geo";
import { feature } from "topojson-client";
import { presimplify, simplify } from "topojson-simplify";

const require = createRequire(import.meta.url);
const OUTPUT = new URL("../../crates/control/src/console/assets/land.svg", import.meta.url);

// The drawing, in its own units. Latitudes from 76 N to 56 S are shown.
const WIDTH = 1000;
const SCALE = WIDTH / (2 * Math.PI * 0.8707);
const NORTH = 78;
const SOUTH = -56;
// The area below which a bend is straightened, and an island left out, in steradians.
const BEND = 0.00002;
const ISLAND = 0.0001;

const projection = geoNaturalEarth1().scale(SCALE).translate([WIDTH / 2, 0]).precision(0.3);
const top = projection([0, NORTH])[1];
const bottom = projection([0, SOUTH])[1];
projection.translate([WIDTH / 2, -top]);
const height = Math.ceil(bottom - top);
projection.clipExtent([[0, -20], [WIDTH, height + 20]]);

const world = simplify(presimplify(require("world-atlas/land-50m.json")), 0.08);
const land = feature(world, world.objects.land);
const polygons = land.features
  .flatMap(({ geometry }) => (geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates))
  .filter((rings) => geoArea({ type: "Polygon", coordinates: rings }) > ISLAND)
  .filter((rings) => rings[0].some(([, latitude]) => latitude > -60))
  .map(([outline, ...lakes]) => [
    outline,
    ...lakes.filter((ring) => geoArea({ type: "Polygon", coordinates: [[...ring].reverse()] }) > ISLAND),
  ]);

// Relative moves in whole tenths are the shortest way to write a path.
function compact(path) {
  return path
    .split(/(?=M)/)
    .map((ring) => {
      const points = ring.replace(/[MZ]/g, "").split("L").map((pair) => pair.split(",").map(Number));
      let [x, y] = [0, 0];
      let text = "";
      points.forEach(([px, py], index) => {
        const [nx, ny] = [Math.round(px * 2), Math.round(py * 2)];
        const [dx, dy] = [nx - x, ny - y];
        if (index > 0 && dx === 0 && dy === 0) return;
        text += index === 0 ? `M${nx} ${ny}l` : `${text.endsWith("l") || dx < 0 ? "" : " "}${dx}${dy < 0 ? "" : " "}${dy}`;
        [x, y] = [nx, ny];
      });
      return `${text}z`;
    })
    .filter((ring) => ring.length > 16)
    .join("");
}

const path = compact(geoPath(projection)({ type: "MultiPolygon", coordinates: polygons }));
const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}">
<!-- Natural Earth, public domain. Made by scripts/world-map/make.js. -->
<path id="land" transform="scale(.5)" d="${path}"/>
</svg>
`;
writeFileSync(OUTPUT, svg);
console.log(`${OUTPUT.pathname}: ${svg.length} bytes, ${WIDTH} x ${height}`);
for (const [name, point] of Object.entries({
  Frankfurt: [8.68, 50.11],
  "Sao Paulo": [-46.63, -23.55],
  Auckland: [174.76, -36.85],
  "San Francisco": [-122.42, 37.77],
})) {
  console.log(name, projection(point).map((value) => value.toFixed(2)).join(", "));
}
