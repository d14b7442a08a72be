// An extension for the OHIF viewer with a hanging protocol, in the forms that OHIF 3.13 documents. OHIF draws a report
// by the coordinates of its measurements, and a classification has none: it is shown in OHIF's text view instead. A
// study with such a report opens with images, heat map and report side by side; the images are those of the series that
// decided, unless the link names another.
"use strict";

(() => {
  const ID = "worker-report";
  const [HANDLER, VIEWPORT] = [`${ID}.sopClassHandlerModule.report`, `${ID}.viewportModule.report`];
  const SR = "@ohif/extension-cornerstone-dicom-sr";
  const REPORTS = ["11", "22", "33", "34"].map((end) => `1.2.840.10008.5.1.4.1.1.88.${end}`); // as in OHIF's handler
  const SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7";
  const [COMMENT, IMAGE_LIBRARY, TRACKING_IDENTIFIER] = ["121106", "111028", "112039"]; // DCM

  // OHIF may represent a sequence with a single item by that item.
  const list = (value) => (value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]);
  const only = (value) => list(value)[0] ?? {};
  const name = (item) => only(item.ConceptNameCodeSequence);
  const children = (item) => list(item.ContentSequence);

  function hasCoordinates(item) {
    return ["SCOORD", "SCOORD3D"].includes(item.ValueType) || children(item).some(hasCoordinates);
  }

  // --- the report for the text view, which shows containers, names and values, but no modifiers ---

  const named = (title) => ({ ConceptNameCodeSequence: { CodeMeaning: title } });
  const container = (title, items) => ({ ValueType: "CONTAINER", ...named(title), ContentSequence: items });
  const text = (title, value) => ({ ValueType: "TEXT", ...named(title), TextValue: value });

  function readable(item) {
    const title = name(item).CodeMeaning;
    switch (item.ValueType) {
      case "CONTAINER":
        return [name(item).CodeValue === IMAGE_LIBRARY ? library(item) : section(item)];
      case "CODE":
        return [text(title, only(item.ConceptCodeSequence).CodeMeaning), ...children(item).flatMap(readable)];
      case "NUM":
        return [text([title, ...children(item).map(modifier).filter(Boolean)].join(", "), quantity(item))];
      case "TEXT":
        return [text(title, item.TextValue)];
      default:
        return []; // UIDs and images: the tag browser shows them
    }
  }

  // The comment first, then groups, codes, numbers, texts; the image library last. A group's title is its identifier.
  function section(item) {
    const identifier = children(item).find((child) => name(child).CodeValue === TRACKING_IDENTIFIER);
    const order = (child) => {
      const special = [COMMENT, IMAGE_LIBRARY].indexOf(name(child).CodeValue);
      return special >= 0 ? [-1, 9][special] : ["CONTAINER", "CODE", "NUM", "TEXT"].indexOf(child.ValueType);
    };
    const items = children(item).filter((child) => child !== identifier);
    items.sort((a, b) => order(a) - order(b));
    return container(identifier?.TextValue ?? name(item).CodeMeaning, items.flatMap(readable));
  }

  function modifier(item) {
    return item.ValueType === "CODE" && `${name(item).CodeMeaning} ${only(item.ConceptCodeSequence).CodeMeaning}`;
  }

  function quantity(item) {
    const measured = only(item.MeasuredValueSequence);
    const unit = only(measured.MeasurementUnitsCodeSequence).CodeValue;
    return unit === "1" ? String(measured.NumericValue) : `${measured.NumericValue} ${unit}`; // UCUM 1: no unit
  }

  function library(item) {
    const images = (content) => (content.ValueType === "IMAGE" ? [content] : children(content).flatMap(images));
    return container(name(item).CodeMeaning, [text("Images read", String(images(item).length))]);
  }

  // --- the images that a report refers to ---

  const isReport = (displaySet) => displaySet.SOPClassHandlerId === HANDLER;
  const isPicture = (displaySet) => displaySet.instances?.[0]?.SOPClassUID === SECONDARY_CAPTURE;
  const sourceOf = (picture) => only(picture.instances[0].SourceImageSequence);

  function imagesRead(displaySets) {
    const report = displaySets.find(isReport)?.instance ?? {};
    return new Set(
      list(report.CurrentRequestedProcedureEvidenceSequence)
        .flatMap((study) => list(study.ReferencedSeriesSequence))
        .flatMap((series) => list(series.ReferencedSOPSequence))
        .map((reference) => reference.ReferencedSOPInstanceUID),
    );
  }

  const attributes = {
    workerHasReport: (study, { displaySets }) => displaySets.some(isReport),
    workerReport: isReport,
    workerImages(displaySet, { displaySets }) {
      const read = imagesRead(displaySets);
      return list(displaySet.instances).some((instance) => read.has(instance.SOPInstanceUID));
    },
    // The series that the picture shows: of a study that which decided.
    workerShown(displaySet, { displaySets }) {
      const shown = new Set(displaySets.filter(isPicture).map((picture) => sourceOf(picture).ReferencedSOPInstanceUID));
      return list(displaySet.instances).some((instance) => shown.has(instance.SOPInstanceUID));
    },
    workerPicture(displaySet, { displaySets }) {
      return isPicture(displaySet) && imagesRead(displaySets).has(sourceOf(displaySet).ReferencedSOPInstanceUID);
    },
  };

  const holds = (attribute) => ({ attribute, required: true, constraint: { equals: { value: true } } });
  const prefers = (attribute, weight) => ({ attribute, weight, constraint: { equals: { value: true } } });
  const view = (id, options) => ({
    viewportOptions: { toolGroupId: "default", allowUnmatchedView: true, ...options },
    displaySets: [{ id }],
  });
  const protocol = {
    id: ID,
    name: "Images, heat map and report",
    protocolMatchingRules: [{ weight: 100, ...holds("workerHasReport") }],
    toolGroupIds: ["default"],
    numberOfPriorsReferenced: 0,
    defaultViewport: view("images", { viewportType: "stack" }),
    displaySetSelectors: {
      // isDisplaySetFromUrl is OHIF's own: the series that a link names.
      images: {
        seriesMatchingRules: [
          holds("workerImages"),
          prefers("workerShown", 10),
          prefers("isDisplaySetFromUrl", 20),
        ],
      },
      picture: { seriesMatchingRules: [holds("workerPicture")] },
      report: { seriesMatchingRules: [holds("workerReport")] },
    },
    stages: [
      {
        name: "Images, heat map and report",
        viewportStructure: {
          layoutType: "grid",
          properties: {
            rows: 2,
            columns: 2,
            layoutOptions: [
              { x: 0, y: 0, width: 0.5, height: 1 },
              { x: 0.5, y: 0, width: 0.5, height: 0.56 },
              { x: 0.5, y: 0.56, width: 0.5, height: 0.44 },
            ],
          },
        },
        viewports: [
          view("images", { viewportType: "stack", initialImageOptions: { custom: "workerSlice" } }),
          view("picture", { viewportType: "stack" }),
          view("report", {}),
        ],
      },
    ],
  };

  // The texts that OHIF lays over an image would lie over those of a picture.
  const isOfImages = ({ displaySet }) =>
    displaySet && isPicture(displaySet) && sourceOf(displaySet).ReferencedSOPInstanceUID;
  const notOnPictures = (items) =>
    list(items).map((item) => ({
      ...item,
      condition: (shown) => !isOfImages(shown) && (!item.condition || item.condition(shown)),
    }));
  const CORNERS = ["topLeft", "topRight", "bottomLeft", "bottomRight"].map((corner) => `viewportOverlay.${corner}`);

  window.config.extensions.push({
    id: ID,

    preRegistration({ servicesManager }) {
      const { hangingProtocolService, displaySetService } = servicesManager.services;
      // Open the images at the slice of the heat map.
      const workerSlice = ([{ instances }]) => {
        const indexOf = (source) =>
          instances.findIndex((instance) => instance.SOPInstanceUID === source.ReferencedSOPInstanceUID);
        const sources = displaySetService.getActiveDisplaySets().filter(isPicture).map(sourceOf);
        const source = sources.find((candidate) => indexOf(candidate) >= 0);
        if (!source) return undefined;
        return { index: instances.length > 1 ? indexOf(source) : Number(source.ReferencedFrameNumber ?? 1) - 1 };
      };
      for (const [id, callback] of Object.entries({ ...attributes, workerSlice })) {
        hangingProtocolService.addCustomAttribute(id, id, callback);
      }
    },

    onModeEnter({ servicesManager }) {
      const overlays = Object.fromEntries(CORNERS.map((corner) => [corner, { $apply: notOnPictures }]));
      servicesManager.services.customizationService.setCustomizations(overlays);
    },

    getHangingProtocolModule: () => [{ name: ID, protocol }],

    getSopClassHandlerModule({ extensionManager }) {
      const load = async () => {}; // nothing to overlay on images
      function getDisplaySetsFromSeries(instances) {
        const theirs = extensionManager.getModuleEntry(`${SR}.sopClassHandlerModule.dicom-sr`);
        return theirs
          .getDisplaySetsFromSeries(instances)
          .filter((displaySet) => displaySet.isImagingMeasurementReport && !hasCoordinates(displaySet.instance))
          .map((displaySet) => Object.assign(displaySet, { SOPClassHandlerId: HANDLER, load }));
      }
      return [{ name: "report", sopClassUids: REPORTS, getDisplaySetsFromSeries }];
    },

    getViewportModule({ extensionManager }) {
      function component(properties) {
        const [displaySet] = properties.displaySets;
        const shown = { ...displaySet, isImagingMeasurementReport: false, instances: [section(displaySet.instance)] };
        const theirs = extensionManager.getModuleEntry(`${SR}.viewportModule.dicom-sr`);
        return theirs.component({ ...properties, displaySets: [shown] });
      }
      return [{ name: "report", component }];
    },
  });

  // The mode in which a study opens: our handler goes before OHIF's, which would claim every report.
  const viewports = { $push: [{ namespace: VIEWPORT, displaySetsToDisplay: [HANDLER] }] };
  window.config.modesConfiguration = {
    "@ohif/mode-longitudinal": {
      hangingProtocol: { $set: [ID, "default"] },
      sopClassHandlers: { $unshift: [HANDLER] },
      routes: { 0: { layoutInstance: { props: { viewports } } } },
    },
  };

  // When the session has ended, sign in again and return to the page of the first 401, not to the page without a study
  // that OHIF navigates to meanwhile.
  let back;
  window.config.httpErrorHandler = ({ status }) => {
    if (status !== 401) return;
    back ??= location.pathname + location.search;
    location.assign(`/sign-in?next=${encodeURIComponent(back)}`);
  };
})();
