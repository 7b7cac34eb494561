// Balanced accuracy over the number of labels, with its interval, as SVG.
const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [300, 150, 42, 20, 8];

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

export function learningCurve(points) {
  const most = Math.max(...points.map((point) => point.labels), 1);
  const lowest = Math.min(...points.map((point) => point.low ?? point.value), 0.9);
  const floor = Math.max(0, Math.floor(lowest * 10) / 10);
  const x = (labels) => LEFT + (labels / most) * (WIDTH - LEFT - 8);
  const y = (value) => TOP + ((1 - value) / (1 - floor)) * (HEIGHT - TOP - BOTTOM);
  const last = points.at(-1);
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "img",
    "aria-label": last ? `Learning curve: ${(100 * last.value).toFixed(0)} % with ${last.labels} labels` : "Learning curve" });
  for (const value of [floor, (floor + 1) / 2, 1]) {
    picture.append(draw("line", { x1: LEFT, x2: WIDTH - 8, y1: y(value), y2: y(value), class: "axis" }),
      draw("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(100 * value)} %`));
  }
  picture.append(draw("text", { x: LEFT, y: HEIGHT - 5 }, "0"), draw("text", { x: WIDTH - 8, y: HEIGHT - 5, "text-anchor": "end" }, `${most} labels`));
  const sure = points.filter((point) => point.low !== null);
  const band = [...sure.map((point) => [point.labels, point.high]), ...sure.map((point) => [point.labels, point.low]).reverse()];
  if (sure.length > 1) picture.append(draw("polygon", { points: band.map(([n, value]) => `${x(n)},${y(value)}`).join(" "), class: "band" }));
  picture.append(draw("polyline", { points: points.map((point) => `${x(point.labels)},${y(point.value)}`).join(" "), class: "line" }));
  for (const point of points) picture.append(draw("circle", { cx: x(point.labels), cy: y(point.value), r: 2.5, class: "dot" }));
  return picture;
}
