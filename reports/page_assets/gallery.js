// Test images, and over them which patches still ran.

function gallery() {
  const variant = offer(byId("gallery-variant"), DATA.gallery.map((part, i) => [i, part.label]));
  const [block, rollout] = [byId("gallery-block"), byId("gallery-rollout")];
  const stops = ({ depth, images }) => images.some(({ blocks }) => blocks.some((ran) => ran < depth));
  variant.value = Math.max(0, DATA.gallery.findIndex(stops));
  let cards = [];

  function choose() {
    const { depth, images } = DATA.gallery[variant.value];
    Object.assign(block, { max: depth, value: depth, disabled: depth < 2 });
    rollout.disabled = !images.some((image) => image.rollout.length);
    cards = images.map(card);
    byId("gallery").replaceChildren(...cards.map(({ figure }) => figure));
    draw();
  }
  function draw() {
    const { depth } = DATA.gallery[variant.value];
    byId("gallery-at").textContent = `${block.value} of ${depth}`;
    for (const each of cards) overlay(each, Number(block.value), rollout.checked && !rollout.disabled);
  }
  variant.addEventListener("change", choose);
  for (const input of [block, rollout]) input.addEventListener("input", draw);
  choose();
}

// An image with a canvas over it, one pixel of which is one patch.
function card(image) {
  const [rows, columns] = image.grid;
  const said = image.right ? `right: ${image.predicted}` : `wrong: ${image.predicted}, is ${image.label}`;
  const picture = make("img", { src: `data:image/png;base64,${image.png}`, alt: `Test image ${image.index}, ${said}` });
  const canvas = make("canvas", { width: columns, height: rows });
  const running = make("span", { className: "running" });
  const caption = make(
    "figcaption", {},
    make("b", { className: image.right ? "right-answer" : "wrong-answer", textContent: said }),
    image.confidence ? ` (${image.confidence} %)` : "", make("br"), running,
  );
  const frame = make("div", { className: "picture" }, picture, canvas);
  frame.style.aspectRatio = `${columns} / ${rows}`;
  const figure = make("figure", {}, frame, caption);
  return { figure, canvas, running, image };
}

function overlay({ canvas, running, image }, block, withRollout) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const strongest = Math.max(...image.rollout, 1e-12);
  image.blocks.forEach((ran, patch) => {
    const light = withRollout && image.rollout.length ? image.rollout[patch] / strongest : 0;
    const stopped = ran < block;
    const [red, green, blue, alpha] = light ? [255, 140, 0, 150 * light] : [0, 0, 0, 0];
    pixels.data.set(stopped ? [red * 0.35, green * 0.35, blue * 0.35, 200] : [red, green, blue, alpha], 4 * patch);
  });
  context.putImageData(pixels, 0, 0);
  const left = image.blocks.filter((ran) => ran >= block).length;
  running.textContent = `${left} of ${image.blocks.length} patches run`;
}

if (DATA.gallery) gallery();
