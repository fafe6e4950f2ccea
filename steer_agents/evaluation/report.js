"use strict";
// Films of one seed are played by one control; without this script each has its browser's own.
for (const group of document.querySelectorAll("[data-together]")) {
  const films = [...group.querySelectorAll("video")], player = group.querySelector(".player");
  const button = player.querySelector("button"), place = player.querySelector("input"), time = player.querySelector("output");
  const length = () => Math.max(...films.map(film => film.duration || 0)) || Number(group.dataset.together);
  const longest = () => films.reduce((one, film) => (film.duration || 0) > (one.duration || 0) ? film : one);
  const playing = () => films.some(film => !film.paused && !film.ended);
  const show = () => {
    const now = longest().currentTime;
    place.max = length();
    place.value = now;
    time.value = `${now.toFixed(1)} of ${length().toFixed(1)} s`;
    place.setAttribute("aria-valuetext", time.value);
    button.textContent = playing() ? "Pause" : now > 0 && now >= length() - 0.05 ? "Play again" : films.length > 1 ? "Play together" : "Play";
  };
  const seek = to => films.forEach(film => { film.currentTime = Math.min(to, film.duration || 0); });
  const follow = () => {
    show();
    if (!playing()) return;
    const now = longest().currentTime;
    films.forEach(film => { if (!film.ended && !film.paused && Math.abs(film.currentTime - now) > 0.15) film.currentTime = now; });
    requestAnimationFrame(follow);
  };
  button.addEventListener("click", () => {
    if (playing()) return films.forEach(film => film.pause());
    if (longest().currentTime >= length() - 0.05) seek(0);
    const now = longest().currentTime;
    films.forEach(film => { if (now < film.duration - 0.01) film.play(); });
    requestAnimationFrame(follow);
  });
  place.addEventListener("input", () => { films.forEach(film => film.pause()); seek(Number(place.value)); });
  for (const film of films) {
    film.controls = false;
    film.tabIndex = -1;
    for (const what of ["loadedmetadata", "seeked", "pause", "ended"]) film.addEventListener(what, show);
  }
  player.hidden = false;
  show();
  new IntersectionObserver((seen, self) => {
    if (!seen.some(one => one.isIntersecting)) return;
    self.disconnect();
    films.forEach(film => { film.preload = "auto"; });
  }).observe(group);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));
