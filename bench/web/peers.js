// The article's two models in TensorFlow.js and jax-js, on images of noise: the speed does not depend on their content.
//
// Each function takes { backend, model, what, batch } and returns a step to repeat, which waits for its result: training reads back the loss, as
// the page does at the end of each epoch and whoever watches a training does after each step; inference reads back the scores.

const PIXELS = 28 * 28;
const CLASSES = 10;
const IMAGES = 4096;
const LEARNING_RATE = 1e-3;

/// Images per second of each window.
export async function speeds(step, batch, windows, seconds) {
    let i = 0;
    const run = async (least) => {
        const begin = performance.now();
        let steps = 0;
        do {
            await step(i++);
            steps++;
        } while (performance.now() - begin < least * 1000);
        return (steps * batch * 1000) / (performance.now() - begin);
    };
    await run(seconds / 2);
    const found = [];
    for (let window = 0; window < windows; window++) found.push(await run(seconds));
    return found;
}

/// Returns a function from the number of a step to its images, divided by 255, and its labels.
function batches(batch) {
    const pixels = Uint8Array.from({ length: IMAGES * PIXELS }, () => Math.random() * 256);
    const labels = Int32Array.from({ length: IMAGES }, () => Math.random() * CLASSES);
    return (i) => {
        const first = (i * batch) % (IMAGES - batch + 1);
        return [
            Float32Array.from(pixels.subarray(first * PIXELS, (first + batch) * PIXELS), (pixel) => pixel / 255),
            labels.slice(first, first + batch),
        ];
    };
}

function script(path) {
    return new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.src = `node_modules/${path}`;
        element.onload = resolve;
        element.onerror = () => reject(new Error(`${path} could not be loaded`));
        document.head.append(element);
    });
}

export async function tensorflow({ backend, model, what, batch }) {
    await script("@tensorflow/tfjs/dist/tf.min.js");
    if (backend !== "cpu") await script(`@tensorflow/tfjs-backend-${backend}/dist/tf-backend-${backend}.min.js`);
    if (backend === "wasm") tf.wasm.setWasmPaths("node_modules/@tensorflow/tfjs-backend-wasm/dist/");
    await tf.setBackend(backend);
    await tf.ready();
    if (tf.getBackend() !== backend) throw new Error(`TensorFlow.js chose ${tf.getBackend()}`);
    if (backend === "wasm") supplyFilterGradient();

    const { layers } = tf;
    const network = tf.sequential();
    if (model === "cnn") {
        const convolution = { kernelSize: 3, padding: "same", activation: "relu" };
        network.add(layers.conv2d({ ...convolution, filters: 32, inputShape: [28, 28, 1] }));
        network.add(layers.maxPooling2d({ poolSize: 2 }));
        network.add(layers.conv2d({ ...convolution, filters: 64 }));
        network.add(layers.maxPooling2d({ poolSize: 2 }));
    }
    network.add(layers.flatten({ inputShape: [28, 28, 1] }));
    network.add(layers.dense({ units: 128, activation: "relu" }));
    network.add(layers.dense({ units: CLASSES, activation: "softmax" }));
    network.compile({ optimizer: tf.train.adam(LEARNING_RATE), loss: "sparseCategoricalCrossentropy" });

    const next = batches(batch);
    return async (i) => {
        const [images, labels] = next(i);
        const x = tf.tensor4d(images, [batch, 28, 28, 1]);
        if (what === "inference") {
            const y = network.predict(x);
            await y.data();
            tf.dispose([x, y]);
        } else {
            const y = tf.tensor2d(Float32Array.from(labels), [batch, 1]);
            await network.trainOnBatch(x, y);
            tf.dispose([x, y]);
        }
    };
}

/// The WebAssembly backend has no gradient of a filter. This one is for stride 1 and padding "same": a product of dy and the windows of x.
function supplyFilterGradient() {
    const kernelFunc = ({ inputs: { x, dy }, attrs: { filterShape } }) =>
        tf.tidy(() => {
            const [n, height, width, outputs] = dy.shape;
            const [rows, columns, inputs] = filterShape;
            const [above, left] = [(rows - 1) >> 1, (columns - 1) >> 1];
            const padded = tf.pad(x, [[0, 0], [above, rows - 1 - above], [left, columns - 1 - left], [0, 0]]);
            const cells = [];
            for (let p = 0; p < rows; p++) {
                for (let q = 0; q < columns; q++) cells.push(padded.slice([0, p, q, 0], [n, height, width, inputs]));
            }
            const windows = tf.concat(cells, 3).reshape([-1, rows * columns * inputs]);
            return tf.matMul(tf.transpose(windows), dy.reshape([-1, outputs])).reshape(filterShape);
        });
    tf.registerKernel({ kernelName: "Conv2DBackpropFilter", backendName: "wasm", kernelFunc });
}

/// jax-js counts references by hand: an operation consumes its operands, and `.ref` keeps one for another use.
export async function jax({ backend, model, what, batch }) {
    const jax = await import("./node_modules/@jax-js/jax/dist/index.js");
    const { numpy: np, lax, nn, random, tree } = jax;
    await jax.init(backend);
    jax.defaultDevice(backend);

    const shapes = { hidden: [model === "cnn" ? 7 * 7 * 64 : PIXELS, 128], last: [128, CLASSES] };
    if (model === "cnn") Object.assign(shapes, { first: [32, 1, 3, 3], second: [64, 32, 3, 3] });
    let parameters = {};
    let seed = 0;
    for (const [name, shape] of Object.entries(shapes)) {
        const isFilter = shape.length === 4;
        const window = isFilter ? 9 : 1;
        const limit = Math.sqrt(6 / (window * (shape[0] + shape[1])));
        parameters[`${name}Weight`] = random.uniform(random.key(seed++), shape, { minval: -limit, maxval: limit });
        parameters[`${name}Bias`] = np.zeros(isFilter ? [shape[0], 1, 1] : [shape[1]]);
    }
    const convolve = (x, weight, bias) => {
        const y = nn.relu(lax.convGeneralDilated(x, weight, [1, 1], "SAME").add(bias));
        return lax.reduceWindow(y, np.max, [2, 2], [2, 2]);
    };
    const forward = jax.jit((p, x) => {
        let y = x;
        if (model === "cnn") {
            y = convolve(y.reshape([-1, 1, 28, 28]), p.firstWeight, p.firstBias);
            y = convolve(y, p.secondWeight, p.secondBias);
        }
        y = nn.relu(np.dot(y.reshape([-1, shapes.hidden[0]]), p.hiddenWeight).add(p.hiddenBias));
        return nn.logSoftmax(np.dot(y, p.lastWeight).add(p.lastBias));
    });
    const loss = (p, x, targets) => forward(p, x).mul(targets).sum().mul(-1 / batch);
    const [beta1, beta2, epsilon] = [0.9, 0.999, 1e-7];
    // `corrections` are those of Adam's two averages.
    const update = jax.jit((p, m, v, x, targets, corrections) => {
        const [value, gradients] = jax.valueAndGrad(loss)(tree.ref(p), x, targets);
        const [first, second] = [corrections.ref.slice(0), corrections.slice(1)];
        const [newP, newM, newV] = [{}, {}, {}];
        for (const name of Object.keys(p)) {
            const g = gradients[name];
            newM[name] = m[name].mul(beta1).add(g.ref.mul(1 - beta1));
            newV[name] = v[name].mul(beta2).add(g.ref.mul(g).mul(1 - beta2));
            const root = np.sqrt(newV[name].ref.mul(second.ref)).add(epsilon);
            newP[name] = p[name].sub(newM[name].ref.mul(first.ref).mul(LEARNING_RATE).div(root));
        }
        first.dispose();
        second.dispose();
        return [value, newP, newM, newV];
    });
    const zeros = () => Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, np.zeros(value.shape)]));
    let [m, v, steps] = [zeros(), zeros(), 0];
    const next = batches(batch);
    return async (i) => {
        const [images, labels] = next(i);
        const x = np.array(images).reshape([batch, PIXELS]);
        if (what === "inference") {
            await forward(tree.ref(parameters), x).data();
            return;
        }
        steps++;
        const corrections = np.array(new Float32Array([1 / (1 - beta1 ** steps), 1 / (1 - beta2 ** steps)]));
        const targets = nn.oneHot(np.array(labels), CLASSES);
        let value;
        [value, parameters, m, v] = update(parameters, m, v, x, targets, corrections);
        await value.data();
    };
}
