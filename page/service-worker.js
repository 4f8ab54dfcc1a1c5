// Keeps the page for the next visit, also without a connection, and isolates it for threads.

const KEPT = "lungs-VERSION"; // the build puts a digest of all files here
const FILES = ["FILES"]; // and their names here

self.addEventListener("install", event => {
  event.waitUntil(caches.open(KEPT).then(cache => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", event => {
  const old = async () => {
    const names = (await caches.keys()).filter(name => name.startsWith("lungs-") && name !== KEPT);
    await Promise.all(names.map(name => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(old());
});

self.addEventListener("fetch", event => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(answer(request));
});

async function answer(request) {
  const cache = await caches.open(KEPT);
  const response = await cache.match(request, { ignoreSearch: true }) ?? await fetch(request);
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
