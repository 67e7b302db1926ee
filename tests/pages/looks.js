// What the tests ask of a page; each function finds what is wrong, as texts.

function words(element) {
    return `${element.tagName} "${element.textContent.trim().slice(0, 40)}"`
}

// What reaches beyond the window, or what a box hides; boxes of the class `scroll` may.
function cutOff() {
    const root = document.documentElement
    const found = root.scrollWidth > root.clientWidth ? ["the page scrolls sideways"] : []
    const all = [...document.body.querySelectorAll("*:not(.scroll, .scroll *, caption)")]
    for (const each of all.filter(each => each.checkVisibility())) {
        const picture = each.closest("svg"), box = each.getBoundingClientRect()
        if (picture === null || picture === each) {
            if (box.left < -1 || box.right > root.clientWidth + 1) found.push(`${words(each)}: ${box.left} to ${box.right}`)
            const clips = picture === null && getComputedStyle(each).overflowX !== "visible"
            if (clips && each.scrollWidth > each.clientWidth + 1) found.push(`${words(each)} hides what is in it`)
        } else if (each.tagName === "use") { // letters and signs; curves are clipped by their axes
            const frame = picture.getBoundingClientRect()
            const inside = box.left > frame.left - 1 && box.right < frame.right + 1
            if (!inside || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
                found.push(`a letter or sign of "${picture.getAttribute("aria-label")}"`)
        }
    }
    return found
}

// Tables that are wider than the window: on paper nobody can scroll them.
function tooWide() {
    const tables = [...document.querySelectorAll("table")].filter(each => each.checkVisibility())
    return tables.filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(words)
}

// How light the page is, from 0 to 1, and texts whose contrast with it (WCAG 2) is less than `enough`.
function faint(enough) {
    const linear = part => (part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    const light = colour => {
        const [red, green, blue] = colour.match(/[\d.]+/g).map(Number).map(linear)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue
    }
    const contrast = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)
    const paper = light(getComputedStyle(document.body).backgroundColor)
    const speaks = each => [...each.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
    const texts = [...document.body.querySelectorAll("*:not(svg *)")].filter(each => each.checkVisibility() && speaks(each))
    return [paper, texts.filter(each => contrast(light(getComputedStyle(each).color), paper) < enough).map(words)]
}

// All that the keyboard should reach, in order.
function interactive() {
    const all = [...document.querySelectorAll("a[href], summary, button, input, .scroll")]
    return all.filter(each => each.checkVisibility())
}

// Which of these has the focus, and whether one can see that.
function focused() {
    const style = getComputedStyle(document.activeElement)
    const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0
    return [interactive().indexOf(document.activeElement), visible]
}
