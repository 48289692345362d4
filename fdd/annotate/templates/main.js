/* The page: its parts hang themselves in, then it begins. */
import { begin } from "./annotate.js";
import "./annotate_work.js";
import "./annotate_scores.js";
import "./annotate_void.js";
import "./annotate_classes.js";

begin();
