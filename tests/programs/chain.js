// SPDX-License-Identifier: MIT
// A server with a worker thread that keeps a chain: each request is a number in a line, which the worker takes into its
// hash; the answer is the request's place in the chain, the hash after it, and what the worker has kept of the request
// kKept places before. Whoever has all the answers can compute the whole chain.
'use strict';
const net = require('net');
const { Worker, isMainThread, parentPort } = require('worker_threads');

const kPort = 8080;
const kKept = 2000; // buffers of 16 KiB
const kPrime = 0x100000001b3n; // of FNV-1a

function work() {
  const kept = new Array(kKept);
  let place = 0;
  let hash = 0xcbf29ce484222325n;
  parentPort.on('message', ([asker, word]) => {
    ++place;
    hash = BigInt.asUintN(64, (hash ^ BigInt(word)) * kPrime);
    const old = kept[place % kKept];
    kept[place % kKept] = Buffer.alloc(16384, `${place} `);
    parentPort.postMessage([asker, `${place} ${hash} ${old ? parseInt(old.toString('latin1', 0, 16)) : 0}\n`]);
  });
}

function serve() {
  const worker = new Worker(__filename);
  const askers = new Map();
  let last = 0;
  worker.on('message', ([asker, answer]) => {
    const socket = askers.get(asker);
    if (socket !== undefined) socket.write(answer);
  });
  net.createServer((socket) => {
    const asker = ++last;
    let text = '';
    askers.set(asker, socket);
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        worker.postMessage([asker, text.slice(0, end)]);
        text = text.slice(end + 1);
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => askers.delete(asker));
  }).listen(kPort, '0.0.0.0');
}

if (isMainThread) serve(); else work();
