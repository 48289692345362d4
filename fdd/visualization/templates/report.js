/*
 * Rows arrive sorted worst first with their pictures inside noscript: without a script the browser takes these as they
 * are, and with one they are inert text until a row comes into view. What is shown follows from the URL's hash alone
 * (#class=cell&sort=best&q=name), so that every view can be linked to and the browser's Back works.
 */
(() => {
  const $ = (id) => document.getElementById(id);
  const rows = $("rows");
  if (!rows) return;
  document.documentElement.classList.add("js");
  const tools = $("tools"), search = $("search"), choice = $("class"), clear = $("clear"), count = $("count"), fill = $("fill");
  const number = (text) => text === undefined || text === "" ? null : Number(text);
  const all = [...rows.children].map((node) => ({ node, name: node.dataset.name,
    order: Number(node.dataset.order), score: number(node.dataset.score),
    classes: JSON.parse(node.dataset.classes || "{}"), values: JSON.parse(node.dataset.values || "{}") }));

  /* Pictures leave their noscript once their row is near. */
  const load = (row) => {
    const text = row.querySelector(".panels > noscript");
    if (text) text.parentNode.innerHTML = text.textContent;
  };
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    watcher.unobserve(entry.target);
    load(entry.target);
  }), { rootMargin: "800px 0px" });
  all.forEach((row) => watcher.observe(row.node));
  addEventListener("beforeprint", () => all.forEach((row) => row.node.hidden || load(row.node)));

  /* Orders: rows without a figure come last, ties stay worst first. */
  const by = (figure, sign) => (a, b) => {
    const x = figure(a), y = figure(b);
    if (x == null || y == null) return (x == null) - (y == null) || a.order - b.order;
    return sign * (x - y) || a.order - b.order;
  };
  const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || a.order - b.order;
  const buttons = [...document.querySelectorAll("[data-sort]")];
  const sorts = buttons.map((button) => button.dataset.sort);
  const order = (sort, figure) => {
    const sign = buttons[sorts.indexOf(sort)].dataset.sign === "-1" ? -1 : 1;
    if (sort === "name") return byName;
    return by(sort === "worst" || sort === "best" ? figure : (row) => row.values[sort], sign);
  };

  /* Fills are drawn with an opacity of 0.6, which the filter maps to what is wanted. */
  const DRAWN = 60;
  const showFill = (percent) => {
    const part = percent / 100;
    fill.value = percent;
    document.documentElement.classList.toggle("filled", percent !== DRAWN);
    $("fill-table").setAttribute("tableValues", [0, part / 3, part * 2 / 3, part, (1 + part) / 2, 1].join(" "));
    /* Outlines are dark, to separate bright fills; alone they must show on dark images. */
    const bright = 1 + Math.max(0, 1 - percent / DRAWN);
    for (const node of document.querySelectorAll(".fill-colour")) node.setAttribute("slope", bright);
  };

  /* The hash is the state. */
  const read = () => {
    const hash = new URLSearchParams(location.hash.slice(1));
    const named = choice ? [...choice.options].filter((o) => o.value && o.value === hash.get("class")) : [];
    const sort = hash.get("sort");
    const colour = Number(hash.get("fill") ?? DRAWN);
    return { class: named.length ? named[0].value : "", numbers: named.map((o) => o.dataset.number),
      sort: sorts.includes(sort) ? sort : sorts[0], q: hash.get("q") || "",
      fill: colour >= 0 && colour <= 100 ? colour : DRAWN };
  };
  const write = (change, replace, then = show) => {
    const state = { ...read(), ...change }, hash = new URLSearchParams();
    if (state.class) hash.set("class", state.class);
    if (state.sort !== sorts[0]) hash.set("sort", state.sort);
    if (state.q) hash.set("q", state.q);
    if (state.fill !== DRAWN) hash.set("fill", state.fill);
    const url = "#" + hash;
    if (replace) history.replaceState(null, "", url); else history.pushState(null, "", url);
    then();
  };
  const show = () => {
    const state = read(), wanted = state.q.toLowerCase();
    const mine = (row) => state.numbers.filter((k) => k in row.classes);
    const figure = state.class ? (row) => row.classes[mine(row)[0]] : (row) => row.score;
    let shown = 0;
    all.forEach((row) => {
      const hit = (!state.class || mine(row).length > 0) && row.name.toLowerCase().includes(wanted);
      row.node.hidden = !hit;
      shown += hit;
      const value = state.class && hit ? figure(row) : null, badge = row.node.querySelector(".mine");
      if (badge) badge.textContent = value == null ? "" : `${state.class}: ${rows.dataset.by} ${value.toFixed(1)}`;
    });
    all.sort(order(state.sort, figure));
    rows.append(...all.map((row) => row.node));
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.sort === state.sort)));
    if (choice) choice.value = state.class;
    if (search.value !== state.q) search.value = state.q;
    if (fill) showFill(state.fill);
    document.querySelectorAll("tr[data-class]").forEach((tr) => {
      const on = state.class !== "" && tr.dataset.class === state.class;
      tr.classList.toggle("on", on);
      tr.querySelector("a").setAttribute("aria-current", String(on));
    });
    const filtered = Boolean(state.class || state.q);
    clear.hidden = !filtered;
    count.textContent = filtered ? `${shown} of ${all.length} images`
      + (state.class ? ` with ${state.class}` : "") : `${all.length} images`;
  };
  buttons.forEach((b) => b.addEventListener("click", () => write({ sort: b.dataset.sort })));
  search.addEventListener("input", () => write({ q: search.value }, true));
  if (choice) choice.addEventListener("change", () => write({ class: choice.value }));
  /* Rows are not moved here: one that is moved loses the focus, and scrolls out of view. */
  const setFill = (percent) => write({ fill: percent }, true, () => showFill(percent));
  if (fill) {
    fill.addEventListener("input", () => showFill(Number(fill.value)));
    fill.addEventListener("change", () => setFill(Number(fill.value)));
  }
  clear.addEventListener("click", () => write({ class: "", q: "" }));
  addEventListener("hashchange", show);
  addEventListener("popstate", show);
  tools.hidden = false;
  show();

  /* The table of classes: a class shows its images, a head sorts the table. */
  const table = $("classes");
  if (table) table.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-class]"), head = event.target.closest("th button");
    if (head) return sortTable(head.parentNode);
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const again = row.classList.contains("on");
    write({ class: again ? "" : row.dataset.class });
    if (!again) $("images").scrollIntoView();
  });
  const sortTable = (head) => {
    const body = table.tBodies[0], place = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    head.parentNode.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (tr) => place ? number(tr.cells[place].dataset.value) : tr.dataset.class;
    body.append(...[...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (!place) return sign * x.localeCompare(y);
      return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
    }));
  };

  /* An enlarged picture: left and right through its row, up and down through the images. */
  const dialog = $("zoom");
  let row = null, place = 0;
  const visible = () => all.map((one) => one.node).filter((node) => !node.hidden);
  const zoom = (next, at) => {
    load(next);
    const pictures = [...next.querySelectorAll(".shot img")];
    if (!pictures.length) return;
    row = next;
    place = (at + pictures.length) % pictures.length;
    const large = dialog.querySelector("img"), below = next.querySelector(".panels").style;
    large.src = pictures[place].src;
    large.className = pictures[place].className;
    dialog.style.setProperty("--image", below.getPropertyValue("--image") || "none");
    dialog.querySelector("p").textContent = pictures[place].alt;
    if (!dialog.open) dialog.showModal();
  };
  const step = (from, by) => {
    const nodes = visible(), at = nodes.indexOf(from);
    return nodes[Math.min(nodes.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  };
  document.addEventListener("click", (event) => {
    const shot = event.target.closest(".row .shot");
    if (shot) {
      const owner = shot.closest(".row");
      zoom(owner, [...owner.querySelectorAll(".shot")].indexOf(shot));
    } else if (dialog.open) dialog.close();
  });
  dialog.addEventListener("close", () => row && row.scrollIntoView({ block: "nearest" }));
  const go = (by) => {
    const here = document.activeElement.closest(".row") || null, next = step(here, by);
    if (!next) return;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "o" && fill && !event.target.matches("input[type=search], select, textarea"))
      return setFill(read().fill ? 0 : DRAWN);
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (dialog.open) {
      const move = moves[event.key];
      if (move) { event.preventDefault(); zoom(move[0] ? step(row, move[0]) : row, place + move[1]); }
      return;
    }
    if (event.key === "Escape") { search.blur(); if (!clear.hidden) write({ class: "", q: "" }); return; }
    if (event.target.matches("input, select, textarea")) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    if (event.key === "j") go(1);
    if (event.key === "k") go(-1);
  });
})();
