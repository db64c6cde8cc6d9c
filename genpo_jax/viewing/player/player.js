// Plays recorded episodes. genpo_jax/viewing/play_page.py writes the data into <script id="data" type="application/json">;
// `unpacked` in play_page.html turns packed text into bytes.
// Bundle: npm install three@0.180.0 esbuild@0.28.2 && npx esbuild player.js --bundle --minify --format=iife --legal-comments=none --outfile=player.min.js
import * as THREE from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
THREE.Object3D.DEFAULT_UP.set(0, 0, 1);
// Half of the side, in meters, at which an infinite plane is drawn.
const FAR = 500;

// Each number of a pose is stored as its changes from frame to frame; their sums wrap around in 16 bits.
async function poses(episode) {
  const values = new Int16Array(await unpacked(episode.changes));
  for (let i = 0; i < values.length; i++) if (i % episode.frames) values[i] += values[i - 1];
  return values;
}

async function shape(mesh) {
  const made = new THREE.BufferGeometry();
  const points = Float32Array.from(new Int16Array(await unpacked(mesh.points)), (x) => x * mesh.scale);
  const wide = points.length / 3 >= 65536 ? Uint32Array : Uint16Array;
  made.setAttribute("position", new THREE.BufferAttribute(points, 3));
  made.setIndex(new THREE.BufferAttribute(new wide(await unpacked(mesh.faces)), 1));
  if (mesh.uv) made.setAttribute("uv", new THREE.BufferAttribute(new Float32Array(await unpacked(mesh.uv)), 2));
  made.computeVertexNormals();
  return made;
}

function geometry(geom, meshes) {
  const [a, b, c] = geom.size;
  // The axis of a cylinder is y in three.js and z in MuJoCo.
  const upright = (shape) => shape.rotateX(Math.PI / 2);
  switch (geom.type) {
    case "plane": return new THREE.PlaneGeometry(2 * (a || FAR), 2 * (b || FAR));
    case "sphere": return new THREE.SphereGeometry(a, 24, 16);
    case "capsule": return upright(new THREE.CapsuleGeometry(a, 2 * b, 8, 20));
    case "cylinder": return upright(new THREE.CylinderGeometry(a, a, 2 * b, 28));
    case "ellipsoid": return new THREE.SphereGeometry(1, 24, 16).scale(a, b, c);
    case "box": return new THREE.BoxGeometry(2 * a, 2 * b, 2 * c);
    case "mesh": return meshes[geom.mesh];
  }
}

function ground() {
  const picture = document.createElement("canvas");
  picture.width = picture.height = 64;
  const pen = picture.getContext("2d");
  pen.fillStyle = "#c3cad3"; pen.fillRect(0, 0, 64, 64);
  pen.fillStyle = "#a9b3bf"; pen.fillRect(0, 0, 32, 32); pen.fillRect(32, 32, 32, 32);
  const texture = new THREE.CanvasTexture(picture);
  texture.wrapS = texture.wrapT = THREE.RepeatWrapping;
  texture.repeat.set(500, 500);
  texture.anisotropy = 8;
  return new THREE.Mesh(new THREE.PlaneGeometry(2 * FAR, 2 * FAR), new THREE.MeshStandardMaterial({ map: texture }));
}

// As in MuJoCo, the first repeat of a texture begins at the center of the plane.
function picture(geom) {
  const texture = new THREE.TextureLoader().load(data.textures[geom.texture]);
  texture.colorSpace = THREE.SRGBColorSpace;
  texture.flipY = false;
  texture.anisotropy = 8;
  texture.wrapS = texture.wrapT = THREE.RepeatWrapping;
  if (geom.repeats) {
    const [x, y] = geom.repeats.map((n, i) => 2 * n * (geom.size[i] || FAR));
    texture.repeat.set(x, y);
    texture.offset.set(-x / 2 % 1, -y / 2 % 1);
  }
  return texture;
}

function makeScene(meshes) {
  const scene = new THREE.Scene();
  scene.background = new THREE.Color("#eef1f5");
  scene.add(new THREE.HemisphereLight("#ffffff", "#8896a8", 1.3));
  const sun = new THREE.DirectionalLight("#ffffff", 1.6);
  sun.position.set(3, -4, 8);
  scene.add(sun);
  const bodies = data.bodies.map(() => scene.add(new THREE.Group()).children.at(-1));
  for (const geom of data.geoms) {
    const [r, g, b, a] = geom.rgba;
    const textured = geom.texture !== undefined;
    // Floors are paler than in MuJoCo: without shadows, a robot in the floor's colors would be hard to see.
    const opacity = geom.type === "plane" && textured ? 0.5 * a : a;
    // A wide floor of one color would not show that the robot moves.
    const bare = geom.type === "plane" && !textured && !(geom.size[0] > 0 && geom.size[0] < 5);
    const mesh = bare ? ground() : new THREE.Mesh(geometry(geom, meshes), new THREE.MeshStandardMaterial({
      map: textured ? picture(geom) : null, color: new THREE.Color().setRGB(r, g, b, THREE.SRGBColorSpace), roughness: 0.6,
      transparent: opacity < 1, opacity, side: geom.type === "plane" ? THREE.DoubleSide : THREE.FrontSide,
    }));
    mesh.position.fromArray(geom.pos);
    mesh.quaternion.set(geom.quat[1], geom.quat[2], geom.quat[3], geom.quat[0]);
    bodies[geom.body].add(mesh);
  }
  return { scene, bodies };
}

async function play() {
  const meshes = {};
  for (const name in data.meshes) meshes[name] = await shape(data.meshes[name]);
  // One lane for deterministic actions and one for sampled actions, side by side.
  const kinds = [...new Set(data.episodes.map((episode) => episode.actions))];
  const lanes = kinds.map((kind) => ({ kind, ...makeScene(meshes), episodes: data.episodes.filter((e) => e.actions === kind) }));
  for (const lane of lanes) for (const episode of lane.episodes) {
    episode.values = await poses(episode);
  }

  const canvas = byId("view");
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
  renderer.setScissorTest(true);
  const camera = new THREE.PerspectiveCamera(45, 1, 0.01, 500);
  const reach = Math.max(data.extent, 0.3);
  camera.position.set(0.5 * reach, -2 * reach, 0.8 * reach);
  const controls = new OrbitControls(camera, canvas);
  const focus = new THREE.Vector3();

  let chosen = 0, frame = 0, playing = true, before = 0;
  const current = (lane) => lane.episodes[Math.min(chosen, lane.episodes.length - 1)];
  const longest = () => Math.max(...lanes.map((lane) => current(lane).frames));

  function pose(lane) {
    const episode = current(lane), at = Math.min(Math.floor(frame), episode.frames - 1);
    lane.bodies.forEach((body, i) => {
      const [x, y, z, w, a, b, c] = Array.from({ length: 7 }, (_, k) => episode.values[(7 * i + k) * episode.frames + at]);
      body.position.set(x, y, z).multiplyScalar(episode.scale);
      body.quaternion.set(a, b, c, w).normalize();
    });
    const text = byId("lane-" + lanes.indexOf(lane));
    const sum = episode.returns[at];
    text.textContent = `${lane.kind} · return ${sum.toFixed(1)} of ${episode.returns.at(-1).toFixed(1)}`;
  }

  function draw() {
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== width * devicePixelRatio || canvas.height !== height * devicePixelRatio) {
      renderer.setPixelRatio(devicePixelRatio);
      renderer.setSize(width, height, false);
    }
    const stacked = width < height;
    lanes.forEach((lane, i) => {
      pose(lane);
      lane.scene.updateMatrixWorld();
      const w = stacked ? width : width / lanes.length, h = stacked ? height / lanes.length : height;
      const x = stacked ? 0 : i * w, y = stacked ? height - (i + 1) * h : 0;
      // The camera follows the robot and keeps the offset that the user has chosen.
      const target = lane.bodies[data.followed].localToWorld(new THREE.Vector3(...data.center));
      const offset = camera.position.clone().sub(focus);
      const eye = camera.clone();
      eye.position.copy(target).add(offset);
      eye.aspect = w / h;
      eye.updateProjectionMatrix();
      renderer.setViewport(x, y, w, h);
      renderer.setScissor(x, y, w, h);
      renderer.render(lane.scene, eye);
    });
    byId("slider").value = Math.floor(frame);
    byId("time").textContent = (frame * data.seconds).toFixed(1) + " s";
    byId("cursor").setAttribute("x1", 100 * frame / longest());
    byId("cursor").setAttribute("x2", 100 * frame / longest());
  }

  function chart() {
    const all = lanes.flatMap((lane) => current(lane).returns);
    const low = Math.min(0, ...all), high = Math.max(0, ...all, low + 1e-9);
    lanes.forEach((lane, i) => {
      const returns = current(lane).returns;
      const points = returns.map((r, k) => `${(100 * k / longest()).toFixed(2)},${(28 - 26 * (r - low) / (high - low)).toFixed(2)}`);
      byId("curve-" + i).setAttribute("points", points.join(" "));
    });
    byId("slider").max = longest() - 1;
  }

  function tick(now) {
    if (playing) frame = (frame + (now - before) / 1000 / data.seconds) % longest();
    before = now;
    controls.update();
    draw();
    requestAnimationFrame(tick);
  }

  lanes.forEach((lane, i) => {
    byId("lanes").insertAdjacentHTML("beforeend", `<span id="lane-${i}" class="lane-${i}"></span>`);
    byId("chart").insertAdjacentHTML("beforeend", `<polyline id="curve-${i}" class="lane-${i}" vector-effect="non-scaling-stroke"/>`);
  });
  const count = Math.max(...lanes.map((lane) => lane.episodes.length));
  for (let i = 0; i < count; i++) byId("episode").add(new Option(`episode ${i + 1}`, i));
  byId("episode").hidden = count < 2;
  byId("episode").onchange = (event) => { chosen = Number(event.target.value); frame = 0; chart(); };
  byId("slider").oninput = (event) => { playing = false; byId("play").textContent = "Play"; frame = Number(event.target.value); };
  byId("play").onclick = () => { playing = !playing; byId("play").textContent = playing ? "Pause" : "Play"; };
  chart();
  requestAnimationFrame((now) => { before = now; tick(now); document.body.dataset.ready = "yes"; });
}

play();
